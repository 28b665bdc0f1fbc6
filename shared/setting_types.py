"""The types of settings: how each is written in a variable, and what is said of a wrong value."""

import ipaddress
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from shared.contracts import zones
from shared.contracts.zones import ZoneName
from shared.http import urls
from shared.http.rate_limits import PRIVATE, Network
from shared.messaging.credentials import Credentials

MIN_STREAM_BYTES = 100_000_000
"""With a smaller bound of HEARTBEATS, many services could lose heartbeats that the monitor has not read
yet."""


@dataclass(frozen=True)
class Accepted:
    """Marks a field with what is accepted, for the message about a wrong value."""

    accepted: str


class Concealed(Accepted):
    """The same of a value that is secret, or may hold a secret: no message shows it, or what a check says of
    it, but only what is `accepted`."""


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _all_of(good: Callable[[str], bool]) -> AfterValidator:
    """That all texts of a field are good ones; an empty one is."""

    def check(given: Any) -> Any:
        for value in given if isinstance(given, tuple) else (given,):
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if text and not good(text):
                raise ValueError("not accepted")
        return given

    return AfterValidator(check)


def _written_as(
    pattern: str, read: Callable[[re.Match[str]], Any], special: dict[str, Any]
) -> BeforeValidator:
    """That a text matches, and how it is read then; `special`: texts with a meaning of their own."""

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip() in special:
            return special[value.strip()]
        if not (parts := re.fullmatch(pattern, value.strip())):
            raise ValueError("not accepted")
        return read(parts)

    return BeforeValidator(check)


def _loads(load_file: Callable[[str], object], what: str) -> AfterValidator:
    """That the file of this path can be used, if there is a path."""

    def check(path: str) -> str:
        try:
            if path:
                load_file(path)
        except (OSError, ValueError) as error:  # SSLError is the former
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{why}; accepted: {what}") from None
        return path

    return AfterValidator(check)


def _trust(path: str) -> None:
    ssl.create_default_context(cafile=path)


def _known_everywhere(name: str) -> str:
    if name == "localtime":  # which each machine has another of
        raise ValueError(f"must be {zones.ACCEPTED}")
    return name


def _time(parts: re.Match[str]) -> time:
    return time(int(parts[1]), int(parts[2]))


def _per_second(parts: re.Match[str]) -> float:
    return int(parts[1]) / {"s": 1, "m": 60, "h": 3600}[parts[2]]


def _bytes(parts: re.Match[str]) -> int:
    size = int(parts[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[parts[2]]
    if size < MIN_STREAM_BYTES:
        raise ValueError("too small")
    return size


def _networks(value: Any) -> Any:
    """`private`: all of those that nobody has for himself on the internet."""
    if not isinstance(value, str):
        return value
    names = [name for part in _split(value) for name in (PRIVATE if part == "private" else (part,))]
    return tuple(map(ipaddress.ip_network, names))


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Tokens = Annotated[
    tuple[SecretStr, ...],
    NoDecode,
    BeforeValidator(_split),
    _all_of(str.isprintable),
    Concealed("printable characters, several tokens separated by commas"),
]
"""Secrets separated by commas, each as good as the others, so that one can be replaced without a gap."""
TimeOfDay = Annotated[
    time | None,
    _written_as(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", _time, {"": None}),
    Accepted("HH:MM such as 09:00, or nothing"),
]
BrokerUrls = Annotated[CommaSeparated, Field(min_length=1), _all_of(urls.is_nats), Concealed(urls.NATS)]
DatabaseUrl = Annotated[str, Field(min_length=1), _all_of(urls.is_mongodb), Concealed(urls.MONGODB)]
HttpUrl = Annotated[str, _all_of(urls.is_http), Concealed(urls.HTTP)]
SecretHttpUrl = Annotated[SecretStr, _all_of(urls.is_http), Concealed(urls.HTTP)]
HttpUrls = Annotated[
    CommaSeparated, _all_of(urls.is_http), Concealed(f"{urls.HTTP}, several separated by commas")
]
PublicUrl = Annotated[str, Field(min_length=1), _all_of(urls.is_public), Concealed(urls.PUBLIC)]
Port = Annotated[int, Field(ge=1, le=65535)]
Networks = Annotated[
    tuple[Network, ...],
    NoDecode,
    BeforeValidator(_networks),
    Accepted("networks such as 10.0.0.0/8 with commas between, or private"),
]
PerSecond = Annotated[
    float,
    _written_as(r"([1-9][0-9]{0,8})/([smh])", _per_second, {"": 0.0, "0": 0.0}),
    Accepted("a number per s, m or h, such as 100/s, or nothing for no limit"),
]
Size = Annotated[
    int,
    _written_as(r"([1-9][0-9]{0,5}) ?([MGT])B", _bytes, {"": 0, "0": 0}),
    Accepted("100MB or more, such as 500MB, 10GB, 1TB, or nothing for no bound"),
]
"""In bytes; 0: no bound."""
Anonymous = Annotated[tuple[Literal["ingest", "read"], ...], NoDecode, BeforeValidator(_split)]
CredentialsFile = Annotated[str, _loads(Credentials, "a file with NATS credentials")]
CertificatesFile = Annotated[str, _loads(_trust, "a file with certificates (PEM)")]
TimeZone = Annotated[ZoneName, AfterValidator(_known_everywhere)]
