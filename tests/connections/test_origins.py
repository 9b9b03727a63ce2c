"""Test allowed origins, and the address of the client behind proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connections.net.addresses import find_source, group_address
from connections.net.origins import is_origin_allowed, parse_origin, parse_pattern

ALLOWED = ("https://app.example.com", "https://*.trusted.example", "http://dev:8080")


def is_allowed(
    *origins: str, host: str = "site.example", secure: bool = False, own: bool = False
) -> bool:
    return is_origin_allowed(
        origins, host=host, is_secure=secure, allowed=ALLOWED, has_own_credential=own
    )


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "https://app.example.com:443",
        "https://a.trusted.example",
        "https://a.b.trusted.example",
        "http://dev:8080",
        "http://site.example",
        "http://site.example:80",
    ],
)
def test_allowed(origin: str) -> None:
    assert is_allowed(origin)


def test_a_host_has_the_length_of_a_name_at_most() -> None:
    """The origin of a ticket is stored in a column of 255 characters."""
    assert is_allowed(f"https://{'a' * 237}.trusted.example")
    assert not is_allowed(f"https://{'a' * 238}.trusted.example")


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example.com",
        "https://app.example.com:444",
        "https://app.example.com.evil.example",
        "https://trusted.example",
        "https://eviltrusted.example",
        "http://site.example:81",
        "http://user@site.example",
        "http://site.example/path",
        "http://site.example.",
        "ftp://site.example",
        "null",
        "",
        "http://",
        "http://[::",
        "http://site.example\n",
        "//site.example",
    ],
)
def test_refused(origin: str) -> None:
    assert not is_allowed(origin, own=True)


def test_two_origins_are_refused() -> None:
    assert not is_allowed("http://site.example", "http://site.example")


def test_no_origin_is_allowed_only_with_an_own_credential() -> None:
    assert is_allowed(own=True)
    assert not is_allowed()


def test_the_pages_own_host_needs_https_where_the_site_has_it() -> None:
    assert is_allowed("https://site.example", secure=True)
    assert not is_allowed("http://site.example", secure=True)


def test_the_port_of_the_own_host_counts() -> None:
    assert is_allowed("http://127.0.0.1:8000", host="127.0.0.1:8000")
    assert not is_allowed("http://127.0.0.1:9000", host="127.0.0.1:8000")
    assert is_allowed("http://[::1]:8000", host="[::1]:8000")


APPS = (
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "http://tauri.localhost",
    "https://tauri.localhost",
    "app://.",
    "file://",
    "vscode-webview://1a2b3c",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://4e1a9c52-6c3e-4b8a-9d2f-1f0e5d7c8b9a",
    "safari-web-extension://4E1A9C52-6C3E-4B8A-9D2F-1F0E5D7C8B9A",
)


@pytest.mark.parametrize("app", APPS)
def test_an_app_or_extension_is_allowed_if_it_is_listed(app: str) -> None:
    def is_listed(*allowed: str) -> bool:
        return is_origin_allowed(
            [app],
            host="site.example",
            is_secure=True,
            allowed=allowed,
            has_own_credential=False,
        )

    assert is_listed(app)
    assert is_listed("https://other.example", app.upper())
    assert not is_listed("https://site.example", "other://localhost", f"{app}x")
    assert not is_listed()


def test_every_installation_of_an_extension_may_be_allowed() -> None:
    pattern = parse_pattern("moz-extension://*")
    assert pattern.matches(parse_pattern("moz-extension://4e1a9c52"))
    assert not pattern.matches(parse_pattern("chrome-extension://4e1a9c52"))


@pytest.mark.parametrize("has_token", [True, False])
def test_an_opaque_origin_needs_a_credential_of_its_own(has_token: bool) -> None:
    """Any site gets it with a sandboxed frame, and the browser sends the cookie."""

    def is_null_allowed(*allowed: str) -> bool:
        return is_origin_allowed(
            ["null"],
            host="site.example",
            is_secure=True,
            allowed=allowed,
            has_own_credential=has_token,
        )

    assert is_null_allowed("null") is has_token
    assert not is_null_allowed("https://site.example", "file://")


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://*.XN--BCHER-KVA.example", "https://a.xn--bcher-kva.example"),
        (" https://app.example.com", "https://app.example.com"),
    ],
)
def test_two_forms_of_one_origin_are_equal(pattern: str, origin: str) -> None:
    found = parse_origin(origin)
    assert found is not None
    assert parse_pattern(pattern).matches(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("example.com", "it has no scheme: write https://example.com"),
        ("https://example.com/", "it has a path: write https://example.com"),
        ("https://example.com?x=1", "it has a path: write https://example.com"),
        ("https://user@example.com", "it has a user"),
        ("https://b\u00fccher.example", "in Punycode"),
        ("https://*", "stands for subdomains"),
        ("https://app.*.example.com", "stands for subdomains"),
        ("*", "it has no scheme"),
        ("https://2001:db8::1", r"in brackets: https://\[2001:db8::1\]"),
        ("https://[::g]", "it is not scheme://host"),
        ("https://example.com:99999", "it is not scheme://host"),
        ("https://", "it is not scheme://host"),
        ("null://x", "it is not scheme://host"),
        ("ht tp://example.com", "is no scheme"),
    ],
)
def test_the_error_of_a_wrong_entry_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_pattern(text)


@given(st.text())
def test_garbage_is_refused_and_never_raises(text: str) -> None:
    parse_origin(text)
    parse_origin(f"https://{text}")
    assert not is_allowed(text)


@pytest.mark.parametrize("text", ["example.com", "*", "https://", "https://*", ""])
def test_an_invalid_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_pattern(text)


PROXIES = ("10.0.0.0/8",)


def find(peer: str | None, **headers: str) -> tuple[str, bool, str]:
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    found = find_source(peer, pairs, PROXIES, is_secure=False)
    return found.address, found.is_secure, found.host


def test_forwarded_headers_of_an_untrusted_peer_are_ignored() -> None:
    source = find(
        "192.0.2.1", host="a", x_forwarded_for="1.1.1.1", x_forwarded_host="b"
    )
    assert source == ("192.0.2.1", False, "a")


def test_the_last_untrusted_hop_is_the_client() -> None:
    """The client itself wrote the hops to its left."""
    forwarded = "6.6.6.6, 203.0.113.9, 10.0.0.7"
    assert find("10.0.0.1", x_forwarded_for=forwarded)[0] == "203.0.113.9"


def test_a_trusted_proxy_sets_scheme_and_host() -> None:
    source = find(
        "10.0.0.1",
        host="inner",
        x_forwarded_for="203.0.113.9:4711",
        x_forwarded_proto="https",
        x_forwarded_host="outer.example",
    )
    assert source == ("203.0.113.9", True, "outer.example")


def test_garbage_from_a_trusted_proxy_is_not_an_address() -> None:
    assert find("10.0.0.1", x_forwarded_for="evil, nonsense")[0] == "10.0.0.1"


def test_a_unix_socket_is_a_local_proxy() -> None:
    assert find(None, x_forwarded_for="203.0.113.9")[0] == "203.0.113.9"


def test_ipv6_counts_by_64_bits() -> None:
    assert group_address("2001:db8::1") == group_address("2001:db8::ffff:1")
    assert group_address("2001:db8::1") != group_address("2001:db8:0:1::1")
    assert group_address("::ffff:192.0.2.1") == group_address("192.0.2.1")
