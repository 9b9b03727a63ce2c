"""Regenerate answers, ask persons about their calls, and take the decisions."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from connections.telemetry.carrier import get_traceparent
from sessions_history.approval_desk import ApprovalDesk
from sessions_history.entries import Append, Committed, NewEntry
from sessions_history.exceptions import NoResponder
from sessions_history.group_commit import GroupCommit
from sessions_history.payloads import digest, dump_claims, dump_metadata
from sessions_history.quotas import StreamQuota
from sessions_history.responders import AnyResponder


class Answers:
    """What clients do with the answers of one node, and what is asked of them."""

    def __init__(
        self,
        commits: GroupCommit,
        quota: StreamQuota,
        approvals: ApprovalDesk,
        *,
        get_responder: Callable[[], AnyResponder | None],
        stores_claims: bool,
    ) -> None:
        self._get_responder = get_responder
        self._stores_claims = stores_claims
        self._commits = commits
        self._quota = quota
        self.ask, self.decide = approvals.ask_beside, approvals.decide

    def regenerate(
        self,
        session_id: str,
        key: str,
        offset: int,
        client_id: str = "",
        *,
        author: str = "",
        epoch: str | None = None,
        claims: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> asyncio.Future[Committed]:
        """
        Answer the message of an answer once more, by a new entry that replaces it.

        With an epoch, only if the log still has it. The responder gets the claims if
        the author of the message is who asks for this.

        The future is done once the place of the new answer is committed; it raises
        AnswerNotFound, AnswerUnfinished, AnswerReplaced, KeyReused, StorageFull,
        TooManyStreams, SessionNotFound or DatabaseUnavailable.

        Raises:
            InvalidMessage: the metadata cannot be stored.
            NoResponder: the empty answer would stand in the place of the former.
            LogFull: the database is too far behind.
            TooManyStreams: too many answers of the client or the node are under way.
        """
        if self._get_responder() is None:
            raise NoResponder
        self._quota.require_room(client_id)
        future = self._commits.submit(
            Append(
                session_id=session_id,
                entries=(NewEntry.stream(replaces=offset),),
                key=key,
                digest=digest(["regenerate", offset]),
                client_id=client_id,
                claims=claims,
                stored_claims=dump_claims(claims) if self._stores_claims else "",
                metadata=dump_metadata(metadata),
                traceparent=get_traceparent(),
                author=author,
                epoch=epoch or "",
            )
        )
        self._quota.count_until(future, client_id)
        return future
