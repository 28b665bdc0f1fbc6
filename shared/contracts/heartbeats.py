"""Reads a heartbeat, over HTTP and over NATS, however it is written. Pure.

Nothing that a heartbeat says costs the heartbeat itself: a field that cannot be used becomes a warning in
words, and a body that is not of the documented form is the message.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from shared.contracts import durations, events, schedules, zones
from shared.contracts.events import SIGNAL_HEADER, Heartbeat, HeartbeatBody, Limits, Signal, sampled

FIRST_KEPT, LAST_KEPT = 2_000, 8_000
"""Bytes of UTF-8 that are kept of a message which is longer than both."""
METADATA_MAX = 64 * 1024
"""Bytes of UTF-8, as JSON."""
METADATA_DEPTH = 64
"""Objects and lists within each other."""
RUN_MAX = 64
"""Characters."""
DURATION_MAX = 100_000_000
"""Seconds: about three years."""
WARNINGS_MAX = 20
WARNING_MAX = 300
"""Characters."""
QUOTED = 40
"""Characters of a value that a warning repeats."""

FIELDS = ("message", "every", "schedule", "time_zone", "run", "metadata")
DECLARED = ("every", "schedule", "time_zone", "run")
"""Fields that may stand in the address too."""

EXIT_RULE = "an integer of up to 10 digits, or an upper-case word such as KILL"
_CODE = re.compile(r"[+-]?[0-9]{1,10}")
_WORD = re.compile(r"[A-Z][A-Z0-9_+-]{0,31}")  # RTMIN+3, USR1 and EXIT_FAILURE are words too

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?(8|16|32)(-?(le|be))?|(us-)?ascii|latin-?[0-9]{1,2}|iso[-_]?8859-[0-9]{1,2}|(windows-|cp)[0-9]{3,4}"
    r"|koi8-[ru]|shift[-_]jis|euc-(jp|kr)|gb(2312|k|18030)|big5",
    re.IGNORECASE,
)
"""Of a name that is not here Python would remember for ever that it does not know it."""
_SILENT_UTF16 = {b"{\0": "utf-16-le", b"\0{": "utf-16-be"}
"""How JSON begins that is UTF-16 and does not say so."""
_TOO_DEEP = "it is too deeply nested to be read as JSON"
_UNFIT = re.compile("[\x00\ud800-\udfff]")


def parse_heartbeat(name: str, payload: bytes, headers: Mapping[str, str] | None) -> Heartbeat:
    """Read what stands in `heartbeat.<name>`. ValueError if the name is malformed, and for nothing else."""
    if not events.valid_name(name):
        raise ValueError(f"bad name: {events.NAME_RULE_IN_WORDS}")
    said = {key.lower(): value for key, value in headers.items()} if headers else {}
    warnings: list[str] = []
    signal = _signal(said.get(SIGNAL_HEADER.lower(), ""), warnings)
    exit_code = _exit_code(said.get(events.EXIT_CODE_HEADER.lower(), ""), signal, warnings)
    duration = _duration(said.get(events.DURATION_HEADER.lower(), ""), warnings)
    body = None
    if payload:
        kept = said.get(events.SOURCE_HEADER.lower()) == "http"
        body, found = read_body(payload, said.get("content-type", ""), kept=kept)
        warnings += found
    if body:
        body = fit_for(signal, body, warnings)
    trace = sampled(said.get(events.TRACEPARENT_HEADER))
    return Heartbeat(signal, body, exit_code, trace, tuple(warnings), duration)


def fit_for(signal: Signal, body: HeartbeatBody, warnings: list[str]) -> HeartbeatBody:
    """The body without what cannot stand beside the rest of it."""
    unfit = {}
    if signal is Signal.LOG:
        unfit = {field: "a log declares nothing" for field in (*DECLARED, "limits")}
    elif body.schedule:
        unfit = {"every": "not used, as there is a schedule"}
    else:
        unfit = {"time_zone": "not used without a schedule"}
    unfit = {field: why for field, why in unfit.items() if getattr(body, field) is not None}
    warnings += (f"{field}: {why}" for field, why in unfit.items())
    return body.model_copy(update=dict.fromkeys(unfit)) if unfit else body


def _signal(word: str, warnings: list[str]) -> Signal:
    """In any case, as blanks around it and capitals leave no doubt of what is meant."""
    if not word.strip():
        return Signal.SUCCESS
    try:
        return Signal(word.strip().lower())
    except ValueError:
        warnings.append(f"{SIGNAL_HEADER}: {quoted(word)} is not fail, start or log; it counts as a success")
        return Signal.SUCCESS


def _exit_code(word: str, signal: Signal, warnings: list[str]) -> int | str | None:
    if not word.strip():
        return None
    try:
        code = read_exit_code(word.strip())
    except ValueError as error:
        warnings.append(f"{events.EXIT_CODE_HEADER}: {error}")
        return None
    if code and signal is not Signal.FAIL:
        warnings.append(f"{events.EXIT_CODE_HEADER}: {code} counts only with {SIGNAL_HEADER}: fail")
    return code


def _duration(word: str, warnings: list[str]) -> float | None:
    if not word.strip():
        return None
    try:
        return read_seconds(word)
    except ValueError as error:
        warnings.append(f"{events.DURATION_HEADER}: {error}")
        return None


def read_seconds(given: str | float) -> float:
    """A duration in seconds. ValueError says the rule."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= DURATION_MAX:
        raise ValueError(f"{quoted(given)} is not a number of seconds from 0 to {DURATION_MAX:,}")
    return seconds


def read_exit_code(word: str) -> int | str:
    """How a run ended: 0 is success; any other number, and a word, is a failure. ValueError says the rule."""
    if _CODE.fullmatch(word):
        return int(word)
    if _WORD.fullmatch(word):
        return word
    raise ValueError(f"{quoted(word)} is not {EXIT_RULE}")


def read_body(
    raw: bytes, content_type: str = "", *, kept: bool = False
) -> tuple[HeartbeatBody | None, list[str]]:
    """What a body says, and what of it cannot be used as it is meant. None: it is empty.

    `kept`: `write_body` has written it, with the warnings that were given then.
    """
    text = _decoded(raw, content_type)
    if not text.strip():
        return None, []
    warnings: list[str] = []
    called_json = content_type.partition(";")[0].strip().lower().endswith("json")
    silent = _SILENT_UTF16.get(raw[:2])
    written = raw.decode(silent, "replace") if silent else text
    if called_json or written.lstrip().startswith("{"):
        fields, why = _object(written)
        if fields is not None and (kept or not fields.keys().isdisjoint(FIELDS)):
            return _used(fields, warnings, kept), warnings
        if why and (called_json or why is _TOO_DEEP):
            warnings.append(f"body: {why}, so all of it is the message")
    return HeartbeatBody(message=cut_message(text)), warnings


def _decoded(raw: bytes, content_type: str) -> str:
    """As its first bytes say, or its charset; else UTF-8. What cannot be decoded is replaced."""
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    named = _CHARSET.search(content_type)
    if named and _CHARSETS.fullmatch(named[1]):
        try:
            return raw.decode(named[1], "replace")
        except LookupError:
            pass
    return raw.decode("utf-8", "replace")


def body_as_message(raw: bytes, content_type: str = "", first: str = "") -> str | None:
    """A body that is the message, whatever it looks like; with `first` before it, if there is something."""
    texts = (text for text in (first, _decoded(raw, content_type)) if text.strip())
    return cut_message("\n".join(texts)) or None


def _object(text: str) -> tuple[dict[str, Any] | None, str]:
    """The JSON object that it is; else None, and why it cannot be read, if it is no JSON at all."""
    try:
        value = json.loads(text, parse_constant=str)
    except RecursionError:
        return None, _TOO_DEEP
    except ValueError:
        return None, "it cannot be read as JSON"
    return (value, "") if isinstance(value, dict) else (None, "")


def _used(fields: dict[str, Any], warnings: list[str], kept: bool) -> HeartbeatBody:
    """The body that these fields make."""
    message = fields.get("message")
    if message is not None and not isinstance(message, str):
        warnings.append(f"message: {quoted(message)} is not a text; its JSON is the message")
        message = _written(message)
    if message:
        message = _clean(message)
        if not kept or len(message) > FIRST_KEPT + LAST_KEPT + 100:
            message = cut_message(message)
    body = HeartbeatBody(message=message, metadata=_metadata(fields.get("metadata"), warnings))
    body = declaring(body, fields, warnings)
    if kept:
        given = fields.get("warnings")
        if "limits" in fields:
            with suppress(ValueError):
                body = body.model_copy(update={"limits": Limits.model_validate(fields["limits"])})
        if isinstance(given, list):
            warnings += (_clean(each)[:WARNING_MAX] for each in given[:WARNINGS_MAX] if isinstance(each, str))
    elif unknown := [key for key in fields if key not in FIELDS]:
        names = ", ".join(_clean(key[:QUOTED]) for key in unknown[:5]) + (" …" if len(unknown) > 5 else "")
        warnings.append(f"{names}: not used; a heartbeat has {', '.join(FIELDS)}")
    return body


def declaring(body: HeartbeatBody, given: Mapping[str, Any], warnings: list[str]) -> HeartbeatBody:
    """The body with the fields of `DECLARED` that are given and can be used; a warning for each other."""
    found: dict[str, Any] = {}
    for field in DECLARED:
        value = given.get(field)
        if value is None or (field == "run" and value == ""):
            continue
        try:
            found[field] = _READ[field](value)
        except ValueError as error:
            warnings.append(f"{field}: {error}")
    return body.model_copy(update=found) if found else body


def _every(given: Any) -> timedelta:
    if not isinstance(given, str):
        raise ValueError(f"{quoted(given)} is not {durations.ACCEPTED}")
    return durations.parse(given if len(given) <= QUOTED else given[:QUOTED] + "…")


def _text(given: Any, most: int) -> str:
    if not (isinstance(given, str) and len(given) <= most):
        raise ValueError(f"{quoted(given)} is not a text of at most {most} characters")
    return _clean(given)


def _schedule(given: Any) -> str:
    text = _text(given, events.SCHEDULE_MAX).strip()
    schedules.parse(text, "UTC")
    return text


def _time_zone(given: Any) -> str:
    name = _text(given, 64)
    try:
        zones.zone(name)
    except ValueError as error:
        raise ValueError(f"{quoted(name)} {error}") from None
    return name


_READ: dict[str, Callable[[Any], Any]] = {
    "every": _every,
    "schedule": _schedule,
    "time_zone": _time_zone,
    "run": partial(_text, most=RUN_MAX),
}


def _metadata(given: Any, warnings: list[str]) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        warnings.append(f'metadata: {quoted(given)} is not an object such as {{"host": "a1"}}')
        return None
    if _is_deeper(given, METADATA_DEPTH):
        warnings.append(f"metadata: nested more than {METADATA_DEPTH} deep; it is left out")
        return None
    try:
        written = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        warnings.append("metadata: holds a number that is too large; it is left out")
        return None
    if len(clean := _UNFIT.sub("\ufffd", written).encode()) > METADATA_MAX:
        warnings.append(f"metadata: larger than {METADATA_MAX} bytes; it is left out")
        return None
    kept: dict[str, Any] = json.loads(clean)
    return kept


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def write_body(body: HeartbeatBody | None, warnings: list[str]) -> bytes:
    """What is stored of a heartbeat that came over HTTP; `parse_heartbeat` reads the same from it."""
    content = body.model_dump(mode="json", exclude_none=True) if body else {}
    if warnings:
        content["warnings"] = [each[:WARNING_MAX] for each in warnings[:WARNINGS_MAX]]
    if not content:
        return b""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def cut_message(text: str) -> str:
    """A message as it is kept."""
    return shortened(_clean(text))


_LEFT_OUT = re.compile(r"\n\[… ([0-9]{1,9}) bytes left out …\]\n")


def shortened(text: str, first: int = FIRST_KEPT, last: int = LAST_KEPT) -> str:
    """The same if it has at most `first` + `last` bytes in UTF-8; else so many of its beginning and of its
    end, less what would be parts of a character, and between them how many bytes are left out. Of what was
    shortened before, those that were left out then count too."""
    if 4 * len(text) <= first + last:
        return text
    raw = text.encode()
    if len(raw) <= first + last:
        return text
    head, tail = raw[:first].decode(errors="ignore"), raw[-last:].decode(errors="ignore")
    dropped = raw[len(head.encode()) : len(raw) - len(tail.encode())].decode(errors="replace")
    before = sum(int(found[1]) - len(found[0].encode()) for found in _LEFT_OUT.finditer(dropped))
    left_out = len(raw) - len(head.encode()) - len(tail.encode()) + before
    return f"{head}\n[… {left_out} bytes left out …]\n{tail}"


def excerpt(message: str) -> str:
    """What events and read models keep of a message: its beginning, and its end, where the reason stands."""
    return shortened(message, 200, 800)


def quoted(value: Any) -> str:
    """A value as it was given, or its beginning."""
    if isinstance(value, str):
        return repr(value if len(value) <= QUOTED else value[:QUOTED] + "…")
    text = ""
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):  # as far as it is needed
        text += part[: QUOTED + 1]
        if len(text) > QUOTED:
            return _clean(text[:QUOTED]) + "…"
    return _clean(text)


def _written(value: Any) -> str:
    try:
        return _clean(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return "what is nested too deeply"


def _clean(text: str) -> str:
    """Without what cannot be stored, or shown, as text."""
    return _UNFIT.sub("\ufffd", text)
