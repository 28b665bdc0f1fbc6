"""Configuration from the environment or a `.env` file. A wrong value stops the start, naming its variable."""

import hmac
import ipaddress
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import structlog
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.contracts import zones
from shared.contracts.durations import Duration, write
from shared.setting_types import (
    Accepted,
    Anonymous,
    BrokerUrls,
    CertificatesFile,
    Concealed,
    CredentialsFile,
    Networks,
    PerSecond,
    Port,
    PublicUrl,
    Size,
    TimeZone,
)
from shared.telemetry.visible import visible_lines

PREFIX = "REGISTRY_"
log = structlog.get_logger()


class Settings(BaseSettings):
    """What every service knows. Each service adds its own fields in a subclass."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    nats_url: BrokerUrls = ("nats://127.0.0.1:4222",)
    nats_creds: CredentialsFile = ""
    nats_ca: CertificatesFile = ""
    nats_replicas: int = Field(default=1, ge=1, le=5)
    heartbeats_kept: int = Field(
        default=100, ge=1, le=10_000, description="Heartbeats kept per service; 1-5 at a million services."
    )
    heartbeats_bytes: Size = 0
    events_kept: int = Field(
        default=20_000, ge=1, le=1_000_000, description="Events kept of each service, of either kind."
    )
    host: str = "127.0.0.1"
    metrics_host: str = Field(default="127.0.0.1", description="Bind address of monitor and notifier.")
    timezone: TimeZone = "UTC"
    api_port: Port = 8002
    public_url: PublicUrl = Field(
        default_factory=lambda known: base_url(
            known["host"] if listens_on_loopback(known.get("host", "")) else "127.0.0.1",
            known.get("api_port", 8002),
        ),
        description="Where people reach the API; without a path, for the pages link from the root.",
    )
    silent_after: Duration = timedelta(minutes=15)
    down_after: Duration = timedelta(hours=1)
    dead_after: Duration = timedelta(days=7)
    tick: Duration = timedelta(seconds=1)
    max_services: int = Field(default=100_000, ge=1)
    max_connections: int = Field(default=2000, ge=1, le=1_000_000)
    rate_limit_per_address: PerSecond = 100.0
    trusted_proxies: Networks = ()
    anonymous: Anonymous = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json", ""] = ""

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


def near(host: str) -> str:
    """The host in a URL by which this machine reaches what is bound to `host`."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"[{host}]" if ":" in host else host


def listens_on_loopback(host: str) -> bool:
    """Whether only this machine's own users can reach what is bound to this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def matches(given: str, *tokens: SecretStr) -> bool:
    """Whether `given` is one of the tokens that are set, compared in constant time."""
    return any(
        [
            hmac.compare_digest(given.encode(), token.get_secret_value().encode())
            for token in tokens
            if token.get_secret_value()
        ]
    )


SHORT_TOKEN = 16
"""A token with fewer characters can be guessed."""


def warn_of_short_tokens(settings: Settings, *fields: str) -> None:
    """Log which of these variables hold a token that is too short to be safe; never the token."""
    for field in fields:
        if any(0 < len(token.get_secret_value()) < SHORT_TOKEN for token in getattr(settings, field)):
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
