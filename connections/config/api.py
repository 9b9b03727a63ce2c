"""The section `api:` of the operators' API."""

import re
from dataclasses import dataclass

from connections.config.fields import option
from connections.config.kinds import Number, Size, Texts, Whole


def _check_group(text: str) -> None:
    if not re.fullmatch(r"[\w.*-]{1,100}", text, re.ASCII):
        raise ValueError("the name of a group, with * for any characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    publish_groups: tuple[str, ...] = option(
        Texts("names of groups such as news or chat.*", _check_group),
        [],
        "groups that the operators' API may publish to; * stands for any characters",
    )
    requests_per_second: float = option(
        Number(0.01, 1e6),
        10,
        "requests per second of one access token to the operators' API, sustained;"
        " each process counts its own",
    )
    burst_requests: int = option(
        Whole(1, 10_000_000),
        100,
        "requests of one access token to the operators' API in a burst",
    )
    max_body_size: int = option(
        Size(1024, 64 * 1024**2),
        "256kB",
        "largest body of a request to the operators' API (413)",
    )
