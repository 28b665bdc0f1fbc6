"""Whose page sends a request, and under which names this machine may be asked for."""

import pytest
from starlette.datastructures import Headers

from shared.http.origins import host_of, is_foreign, is_loopback, same_origin


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("https://A.example", "a.EXAMPLE", True),
        ("http://a.example:8080", "a.example:8080", True),
        ("http://[::1]:8002", "[::1]:8002", True),
        ("http://a.example", "a.example:443", False),
        ("https://a.example:8443", "a.example", False),
        ("https://b.example", "a.example", False),
        ("https://a.example.evil", "a.example", False),
        ("https://a.example@evil", "a.example", False),
        ("null", "null", False),
        ("", "", False),
        ("file://", "", False),
        ("http://a.example:x", "a.example", False),
        ("http://[a", "[a", False),
    ],
)
def test_same_origin(origin: str, host: str, same: bool) -> None:
    assert same_origin(origin, host) is same


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "a.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "0", "10.0.0.1", "localhost.evil", "notlocalhost"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_host_of() -> None:
    hosts = ("a:1", "A.b.", "[::1]:80", "[::1", "a.b:x:y", "")
    assert [host_of(it) for it in hosts] == ["a", "a.b", "::1", "", "a.b", ""]


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://localhost:3000", "host": "127.0.0.1:8001"}, False),
        ({"origin": "https://registry.example", "host": "registry.example"}, False),
        ({"origin": "https://evil.example", "host": "127.0.0.1:8001"}, True),
        ({"origin": "null", "host": "127.0.0.1:8001"}, True),
        ({"origin": "http://[x", "host": "127.0.0.1:8001"}, True),
        ({"origin": "", "host": ""}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
def test_pages_of_other_machines(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign(Headers(headers)) is foreign
