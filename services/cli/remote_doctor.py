"""What `doctor` can see from anywhere: the way to a registry, the tokens, and the variables here."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from urllib.parse import quote

from services.cli.client import RequestFailed, api, find, send
from services.cli.settings import SERVICES, DoctorSettings
from services.cli.target import PREFIX, Target, variables
from shared.contracts.channels import ChannelReport
from shared.exec import NotTold, Registry

NOT_OF_SETTINGS = frozenset(
    [
        "URL",
        "TOKEN",
        "PORT",
        "BIND",
        "SITE",
        "DOMAIN",
        "INGEST",
        "API",
        "FRONT_TRUSTS",
        "MONGODB_PASSWORD",
        "NATS_PASSWORD",
        "NATS_INGEST_PASSWORD",
        "NATS_MONITOR_PASSWORD",
        "NATS_NOTIFIER_PASSWORD",
        "NATS_API_PASSWORD",
        "NATS_OPERATOR_PASSWORD",
        "NATS_SENDER_PASSWORD",
    ]
)
"""Variables of the command line, of Compose, and of the front door."""
TIMEOUT = 10.0


@dataclass(frozen=True)
class Finding:
    """`mend`: what to do; empty if it is good. A `warning` makes nothing fail."""

    part: str
    said: str
    mend: str = ""
    warning: bool = False

    @property
    def ok(self) -> bool:
        return self.warning or not self.mend


def known_variables() -> frozenset[str]:
    """Without the prefix."""
    kinds = [
        getattr(import_module(f"services.{name}.settings"), f"{name.capitalize()}Settings")
        for name in SERVICES
    ]
    fields = (field.upper() for kind in (*kinds, DoctorSettings) for field in kind.model_fields)
    return NOT_OF_SETTINGS | frozenset(fields)


def unknown_variables() -> Iterator[Finding]:
    """Those with our prefix, of the environment and of `.env`, that mean nothing."""
    known = known_variables()
    for name in sorted(variables().keys() - known):
        near = get_close_matches(name, known, 1, 0.7)
        meant = f"did you mean {PREFIX}{near[0]}?" if near else "there is no such variable"
        mend = "Correct its name, in the environment or in `.env`; .env.example lists them all."
        yield Finding(f"variable {PREFIX}{name}", f"{PREFIX}{name}: {meant}", mend, warning=True)


def access(target: Target, token_name: str) -> Iterator[Finding]:
    """Whether API and ingest take the tokens. Nothing is changed: what is asked for is of no service."""
    try:
        total = api("GET", "/services", params={"limit": 1}, timeout=TIMEOUT).json()["total"]
    except RequestFailed as error:
        yield _refused("api", error, target.api_token, token_name)
        return
    yield Finding("api", f"answers; {total} services")
    nobody = f"doctor-{secrets.token_hex(8)}"
    try:
        api("POST", f"/service/{nobody}/resume", timeout=TIMEOUT)
    except RequestFailed as error:
        may = {404: "reads and writes", 403: "reads", 401: "reads"}.get(error.status)
        if may is None:
            yield Finding("token", f"not known whether it may write ({error})", "Try again.")
        else:
            yield Finding("token", f"{may}" if target.api_token else f"none is given; without one: {may}")
    try:
        Registry(target.ingest, target.ingest_token).post("/heartbeats", {"services": []}, timeout=TIMEOUT)
        yield Finding("heartbeats", "are taken")
    except NotTold as error:
        mend = f"Set {token_name} to a token of REGISTRY_INGEST_TOKEN." if "401" in str(error)[:4] else REACH
        yield Finding("heartbeats", f"are not taken: {error}", mend)


def access_of_tokens() -> Iterator[Finding]:
    """Whether the server of this machine takes each token that its variables have; nothing if it is away."""
    target, given = find(), variables()
    for name in ("TOKEN", "API_TOKEN", "READ_TOKEN"):
        token = next(filter(None, map(str.strip, given.get(name, "").split(","))), "")
        if token and (finding := _api_takes(target.api, token, f"{PREFIX}{name}")):
            yield finding
    if not target.api_token and (finding := _api_takes(target.api, "", f"{PREFIX}API_TOKEN")):
        yield finding
    try:
        Registry(target.ingest, target.ingest_token).post("/heartbeats", {"services": []}, timeout=TIMEOUT)
        yield Finding("heartbeats", "are taken")
    except NotTold as error:
        if str(error).startswith("401"):
            yield Finding("heartbeats", f"are not taken: {error}", f"Set REGISTRY_INGEST_TOKEN. {RESTART}")


def _api_takes(url: str, token: str, name: str) -> Finding | None:
    """None if it does not say."""
    try:
        send("GET", f"{url}/services?limit=1", token, timeout=TIMEOUT)
    except RequestFailed as error:
        if error.status != 401:
            return None
        said = "the API refuses it" if token else "the API asks for a token, and none is set here"
        return Finding(name, said, f"Set {name} as the API has it. {RESTART}")
    return Finding(name, "the API takes it") if token else None


RESTART = "If it was changed, the services must be started again."
REACH = "Look whether the registry runs there, and what stands between."


def _refused(part: str, error: RequestFailed, token: str, token_name: str) -> Finding:
    if error.status == 401 and token:
        return Finding(part, "the token is refused", f"Set {token_name} to a token that the registry has.")
    if error.status == 401:
        return Finding(part, "a token is needed, and none is given", f"Set {token_name}.")
    return Finding(part, str(error), REACH)


def examine_from_here() -> Iterator[Finding]:
    """What can be seen of the registry of REGISTRY_URL."""
    yield from unknown_variables()
    target = find()
    for finding in access(target, "REGISTRY_TOKEN"):
        yield finding
        if finding.part == "api" and finding.mend:
            return
    yield from _channels()


def _channels() -> Iterator[Finding]:
    for channel in _reports():
        part = f"channel {channel.name}"
        if channel.off_since:
            yield Finding(part, f"off: {channel.off_reason}", "Let it in again; see `doctor --send`.")
        elif channel.is_failing and channel.last_error:
            yield Finding(part, f"its last message did not arrive: {channel.last_error.reason}", REACH)
        else:
            yield Finding(part, "good")


def _reports() -> list[ChannelReport]:
    try:
        return [ChannelReport.model_validate(it) for it in api("GET", "/channels").json()["items"]]
    except RequestFailed:
        return []


def test_channels(only: str | None) -> Iterator[Finding]:
    """Send a test message to each channel, or to this one, over the API."""
    names = [channel.name for channel in _reports()]
    if only is not None and only not in names:
        yield Finding(f"channel {only}", "there is no such channel", f"There are: {', '.join(names)}.")
        return
    for name in names if only is None else [only]:
        try:
            api("POST", f"/channels/{quote(name, safe='')}/test", timeout=60)
            yield Finding(f"test of {name}", "the test message was delivered")
        except RequestFailed as error:
            yield Finding(f"test of {name}", f"not delivered: {error}", REACH)
