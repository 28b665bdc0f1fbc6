"""What a request says about a heartbeat, beside the name: its address, its query and its body. Pure."""

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple

from shared.contracts import events, heartbeats, names
from shared.contracts.events import SIGNAL_HEADER, Signal
from shared.contracts.heartbeats import DECLARED, EXIT_RULE, quoted
from shared.http.problems import Problem

SIGNAL_RULE = f"after the service name comes nothing, fail, start, log, or an exit code: {EXIT_RULE}"

MESSAGES = ("message", "msg")
"""Parameters of the query that are the message where the body has none; `msg` is Uptime Kuma's."""
WELL = ("up", "ok", "success", "alive")
FAILED = ("down", "fail", "failed", "failure", "error")
"""What `?status=` may say, as Uptime Kuma's clients do."""
_TAKEN = (*DECLARED, "message", "status")
_READ = (*_TAKEN, *MESSAGES, "token")
_MEANT = (*_READ, "metadata", "signal", "exit_code", "interval", "timezone", "cron", "duration", "ping")
_MOST_LOOKED_AT = 5
"""Parameters that are not known, of which each is held against all that are: 20 µs."""


class HeartbeatContent(NamedTuple):
    """`headers`: the signal and its exit code; none for a success. `payload`: what is stored."""

    headers: dict[str, str]
    payload: bytes
    warnings: list[str]


def read_content(
    signal: str, raw: bytes, content_type: str, query: Mapping[str, str], took: str = ""
) -> HeartbeatContent:
    """`signal`: what follows the name in the address, or nothing. `took`: seconds, as the header has them.
    Raises Problem 422 for the signal alone."""
    headers = read_signal(signal)
    body, warnings = heartbeats.read_body(raw, content_type)
    if took:
        try:
            headers = headers | {events.DURATION_HEADER: str(heartbeats.read_seconds(took))}
        except ValueError as error:
            warnings.append(f"{events.DURATION_HEADER}: {error}")
    body = heartbeats.declaring(body or events.HeartbeatBody(), query, warnings)
    for key in MESSAGES:
        if not query.get(key):
            continue
        if body.message:
            warnings.append(f"{key}: not used, as there is another message")
        else:
            body = body.model_copy(update={"message": heartbeats.cut_message(query[key])})
    if "status" in query:
        headers = _with_status(query["status"], signal, headers, warnings)
    odd = islice((key for key in query if key not in _READ and query[key]), _MOST_LOOKED_AT)
    warnings += (
        f"{quoted(key)[1:-1]}: not used; an address takes {', '.join(_TAKEN)}"
        for key in odd
        if get_close_matches(key[:40].lower(), _MEANT, 1, 0.8)
    )
    body = heartbeats.fit_for(Signal(headers.get(SIGNAL_HEADER, Signal.SUCCESS)), body, warnings)
    warnings = warnings[: heartbeats.WARNINGS_MAX]
    return HeartbeatContent(headers, heartbeats.write_body(body, warnings), warnings)


def read_signal(word: str) -> dict[str, str]:
    """`fail`, `start`, `log` or an exit code as headers; success needs none. Raises Problem 422."""
    if not word:
        return {}
    if word in (Signal.FAIL, Signal.START, Signal.LOG):
        return {SIGNAL_HEADER: word}
    try:
        code = heartbeats.read_exit_code(word)
    except ValueError:
        raise Problem(422, f"{SIGNAL_RULE}; {quoted(word)} is none of them") from None
    return {SIGNAL_HEADER: Signal.FAIL, events.EXIT_CODE_HEADER: str(code)} if code else {}


def _with_status(status: str, signal: str, headers: dict[str, str], warnings: list[str]) -> dict[str, str]:
    """What the address says goes first; without it, `?status=down` is a failure."""
    word, failed = status.strip().lower(), headers.get(SIGNAL_HEADER) == Signal.FAIL
    if not word or word in (FAILED if failed else WELL):
        return headers
    if word in FAILED and not signal:
        return headers | {SIGNAL_HEADER: Signal.FAIL}
    if word in WELL + FAILED:
        warnings.append(f"status: {quoted(status)} is not used, as the address says {quoted(signal)}")
    else:
        warnings.append(f"status: {quoted(status)} is not up or down")
    return headers


def tidy(path: str) -> str:
    """Without what is easily one too many: slashes at the beginning, and one, or blanks, at the end."""
    path = "/" + path.lstrip("/").rstrip(" ")
    return path[:-1].rstrip(" ") if len(path) > 1 and path.endswith("/") else path


def mended_name(given: str, warnings: list[str]) -> str:
    """The name with `-` for what is not allowed in one, and a warning if that makes it another. For protocols
    of other systems, whose clients cannot be told to choose another."""
    name = names.mended(given)
    if name != given:
        warnings.append(f"name: {quoted(given)} is kept as {quoted(name)}: {events.NAME_RULE_IN_WORDS}")
    return name


def finished(
    body: events.HeartbeatBody, headers: dict[str, str], duration: float | None, warnings: list[str]
) -> HeartbeatContent:
    """What is stored of a heartbeat that a protocol of another system has told."""
    body = heartbeats.fit_for(Signal(headers.get(SIGNAL_HEADER, Signal.SUCCESS)), body, warnings)
    if duration is not None:
        headers = {**headers, events.DURATION_HEADER: str(round(duration, 6))}
    warnings = warnings[: heartbeats.WARNINGS_MAX]
    return HeartbeatContent(headers, heartbeats.write_body(body, warnings), warnings)


def bad_name(name: Any) -> Problem:
    """Says which part of the rule it breaks."""
    if not isinstance(name, str):
        return Problem(422, f"service_name: {events.NAME_RULE_IN_WORDS}; {quoted(name)} is no string")
    odd = next((c for c in name if not (c.isascii() and c.isalnum()) and c not in "_-."), "")
    if not name:
        why = "it is missing"
    elif odd:
        why = f"{quoted(odd)} is none of these"
    elif len(name) > events.NAME_MAX:
        why = f"it has {len(name)} characters"
    else:
        why = "a dot stands at its beginning, at its end, or beside another"
    return Problem(422, f"service_name: {events.NAME_RULE_IN_WORDS}; {why}")


def bad_address(path: str) -> Problem:
    """For what follows `/heartbeat/` in an address that leads nowhere."""
    name, _, rest = path.partition("/")
    if not name:
        return bad_name("")
    if not rest.strip("/"):
        return Problem(422, "the address ends in more than one slash")
    return Problem(422, f"{SIGNAL_RULE}; there are more parts than one")
