"""Configuration from the environment or a `.env` file. A wrong value stops the start, naming its variable."""

import ipaddress
import re
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.contracts import zones
from shared.contracts.durations import Duration, write
from shared.contracts.zones import ZoneName
from shared.http import tokens, urls
from shared.http.rate_limits import PRIVATE, Network
from shared.http.urls import near
from shared.messaging.credentials import Credentials
from shared.telemetry.visible import visible_lines

PREFIX = "REGISTRY_"
log = structlog.get_logger()

# --- how settings are written

MIN_STREAM_BYTES = 100_000_000
"""With a smaller bound of HEARTBEATS, those of many services could go before the monitor has read them."""


@dataclass(frozen=True)
class Accepted:
    """Marks a field with what is accepted, for the message about a wrong value."""

    accepted: str


class Concealed(Accepted):
    """The same of a value that may hold a secret: messages show neither it nor what a check says of it."""


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def all_of(good: Callable[[str], bool]) -> AfterValidator:
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
    all_of(tokens.is_token),
    Concealed(tokens.ACCEPTED),
]
"""Secrets separated by commas, each as good as the others, so that one can be replaced without a gap. Each
may have a name, see `tokens`; two of one name are one person's old and new."""
TimeOfDay = Annotated[
    time | None,
    _written_as(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", _time, {"": None}),
    Accepted("HH:MM such as 09:00, or nothing"),
]
BrokerUrls = Annotated[CommaSeparated, Field(min_length=1), all_of(urls.is_nats), Concealed(urls.NATS)]
DatabaseUrl = Annotated[str, Field(min_length=1), all_of(urls.is_mongodb), Concealed(urls.MONGODB)]
HttpUrl = Annotated[str, all_of(urls.is_http), Concealed(urls.HTTP)]
SecretHttpUrl = Annotated[SecretStr, all_of(urls.is_http), Concealed(urls.HTTP)]
PublicUrl = Annotated[str, Field(min_length=1), all_of(urls.is_public), Concealed(urls.PUBLIC)]
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
CertificatesFile = Annotated[
    str, _loads(lambda path: ssl.create_default_context(cafile=path), "a file with certificates (PEM)")
]
TimeZone = Annotated[ZoneName, AfterValidator(_known_everywhere)]


# --- the settings


class Settings(BaseSettings):
    """What every service knows. Each service adds its own fields in a subclass. What stands below a field is
    its meaning in docs/configuration.md (`make docs`); a field of several classes has it in one of them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    nats_url: BrokerUrls = ("nats://127.0.0.1:4222",)
    """The broker; several addresses of a cluster with commas between. `nats://user:password@host`, with what
    is special as `%XX`; `tls://` for TLS. `make run` starts a broker if the address is on this machine."""
    nats_creds: CredentialsFile = ""
    """File with credentials for the broker, in place of user and password."""
    nats_ca: CertificatesFile = ""
    """File with the certificate of the CA that signed the broker's, if the CA is one of your own."""
    nats_replicas: int = Field(default=1, ge=1, le=5)
    """Replicas of the streams: 3 on a cluster."""
    heartbeats_kept: int = Field(default=100, ge=1, le=10_000)
    """Heartbeats kept of each service: 1 to 5 for a million services."""
    heartbeats_bytes: Size = 0
    """What all heartbeats together may take of the broker's disk, such as `10GB`; then the oldest go. The
    broker sets so much aside. Empty: only their number is bound."""
    events_kept: int = Field(default=20_000, ge=1, le=1_000_000)
    """Changes of status kept of each service, and as many of its configuration. A lower number deletes the
    older ones for good."""
    runs_kept: Duration = timedelta(days=400)
    """How long runs, and gaps between heartbeats, are kept; at most 10,000 of each service."""
    host: str = "127.0.0.1"
    """Address that ingest and the API listen on. Another one than loopback needs tokens."""
    metrics_host: str = "127.0.0.1"
    """Address that monitor and notifier listen on. They serve health, metrics and `/asyncapi` only."""
    timezone: TimeZone = "UTC"
    """For dates in messages, for the digest, and for schedules that name no zone. IANA, such as
    `Europe/Berlin`."""
    api_port: Port = 8002
    """Port of the API and the dashboard."""
    public_url: PublicUrl = Field(
        default_factory=lambda known: base_url(
            known["host"] if listens_on_loopback(known.get("host", "")) else "127.0.0.1",
            known.get("api_port", 8002),
        ),
    )
    """Where people reach the API, without a path; used in links and in lines to copy. Heartbeats are told to
    go there too, or, where the port is the API's own, to ingest's port beside it. The default follows
    `REGISTRY_API_PORT`."""
    silent_after: Duration = timedelta(minutes=15)
    """Since the last heartbeat; the settings of a service, and the interval that its heartbeats declare, come
    first. Each of the three is longer than the one before."""
    down_after: Duration = timedelta(hours=1)
    """The same, for `down`."""
    dead_after: Duration = timedelta(days=7)
    """The same, for `dead`."""
    tick: Duration = timedelta(seconds=1)
    """How often services are evaluated."""
    max_services: int = Field(default=100_000, ge=1)
    """No new service registers itself beyond this number (429). Those that are there go on."""
    max_connections: int = Field(default=2000, ge=1, le=1_000_000)
    """Connections to each service. An address without a token has a quarter of them, and makes way."""
    rate_limit_per_address: PerSecond = 100.0
    """Requests to ingest and to the API without a right token (429 beyond), such as `6000/m`; ten seconds'
    worth may come at once. Empty: no limit. This machine has none."""
    trusted_proxies: Networks = ()
    """Networks with commas between, or `private`, whose `X-Forwarded-For` tells the address. This machine is
    always believed."""
    anonymous: Anonymous = ()
    """`ingest`, `read`, or both with a comma: what may be used without a token, even on an open address."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning` or `error`."""
    log_format: Literal["console", "json", ""] = ""
    """`console` or `json`; with `json` every line is JSON, tracebacks too. Empty: `console` on a terminal,
    else `json`."""

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> "Settings":
        if not self.silent_after < self.down_after < self.dead_after:
            found = " < ".join(map(write, (self.silent_after, self.down_after, self.dead_after)))
            raise ValueError(
                f"REGISTRY_SILENT_AFTER < REGISTRY_DOWN_AFTER < REGISTRY_DEAD_AFTER is needed, not {found}"
            )
        return self

    @property
    def deaf_after(self) -> timedelta:
        """If no tick is stored for so long, the registry has not been listening since the last one."""
        return max(timedelta(seconds=10), 3 * self.tick)

    @property
    def zone(self) -> ZoneInfo:
        return zones.zone(self.timezone)

    @property
    def is_public(self) -> bool:
        """Whether others than this machine's own users can reach `host`."""
        return not listens_on_loopback(self.host)

    @property
    def own_names(self) -> frozenset[str]:
        """The names by which requests may ask for a server that is only for this machine's own users."""
        public = urlsplit(self.public_url).hostname or ""
        return frozenset({"localhost", "127.0.0.1", "::1", self.host.lower(), public} - {""})

    def refuse_open_address(self, what: str, variable: str, *, guarded: bool, anonymous: str) -> None:
        """End the process (exit code 2) if `what` would be open to everybody by mistake."""
        if self.is_public and not (guarded or anonymous in self.anonymous):
            stop(
                f"REGISTRY_HOST={self.host!r} would open {what} to everybody who can reach this address. "
                f"Set {variable}, or allow it with REGISTRY_ANONYMOUS={anonymous}, "
                "or accept only 127.0.0.1"
            )


class _LogFormat(BaseSettings):
    """Only this setting, even if others are wrong."""

    model_config = Settings.model_config

    log_format: str = ""


def wanted_log_format() -> str:
    """REGISTRY_LOG_FORMAT, in the environment or in `.env`, before anything is checked."""
    try:
        return _LogFormat().log_format
    except (OSError, UnicodeDecodeError):  # `load` says that `.env` cannot be read
        return _LogFormat(_env_file=None).log_format


def base_url(host: str, port: int) -> str:
    return f"http://{near(host)}:{port}"


def listens_on_loopback(host: str) -> bool:
    """Whether only this machine's own users can reach what is bound to this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SHORT_TOKEN = 16
"""A token with fewer characters behind its name can be guessed."""


def warn_of_short_tokens(settings: Settings, *fields: str) -> None:
    """Log which of these variables hold a token that is too short to be safe; never the token."""
    for field in fields:
        if any(0 < len(tokens.secret_of(token)) < SHORT_TOKEN for token in getattr(settings, field)):
            log.warning(
                "a token can be guessed", variable=PREFIX + field.upper(), less_than_characters=SHORT_TOKEN
            )


S = TypeVar("S", bound=Settings)


def load(kind: type[S], **given: Any) -> S:
    """Read the settings, or end the process with code 2 and one message per wrong variable."""
    try:
        return kind(**given)
    except ValidationError as error:
        wrong = [each for each in error.errors() if each["type"] != _FOLLOWS_FROM_OTHERS]
        stop("\n".join(dict.fromkeys(_explain(kind, each) for each in wrong)))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        stop(f"the file .env cannot be read: {why}")


_FOLLOWS_FROM_OTHERS = "default_factory_not_called"
"""Pydantic's error for a field that nobody set, and whose default needs values that were refused."""


def _explain(kind: type[Settings], error: Any) -> str:
    reason: str = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return reason
    field = str(error["loc"][0])
    variable, hidden = PREFIX + field.upper(), concealed(kind, field)
    if hidden is not None:
        return f"{variable}: its value is not accepted, and not shown; accepted: {hidden}"
    if mark := _mark(kind, field):
        reason = f"accepted: {mark.accepted}"
    given = f"{variable}={error['input']!r} is not accepted"
    if "://" in str(error["input"]):  # in the wrong variable, it is as secret as in its own
        given = f"{variable}: its value is not accepted, and not shown"
    return f"{given}{'; ' if reason.startswith('accepted') else ': '}{reason}"


def _mark(kind: type[Settings], field: str) -> Accepted | None:
    return next((mark for mark in kind.model_fields[field].metadata if isinstance(mark, Accepted)), None)


def concealed(kind: type[Settings], field: str) -> str | None:
    """What is accepted by a field whose value may not be shown; None if it may."""
    info = kind.model_fields.get(field)
    if info is None:
        return "see .env.example"
    if isinstance(mark := _mark(kind, field), Concealed):
        return mark.accepted
    return "see .env.example" if "Secret" in str(info.annotation) else None


def stop(message: str) -> NoReturn:
    """End with code 2: wrong use or wrong configuration."""
    if structlog.is_configured():  # a service whose log is up
        for line in message.split("\n"):
            log.critical(line)
    else:
        sys.stderr.write(visible_lines(message) + "\n")
    raise SystemExit(2)
