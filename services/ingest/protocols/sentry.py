"""Sentry's cron monitors: `/api/PROJECT/cron/NAME/TOKEN/` and the check-ins in its SDKs' envelopes. Whatever
else an envelope holds is let go by."""

import contextlib
import io
import json
import re
import uuid
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import brotli
from starlette.responses import JSONResponse, Response

from services.ingest.content import FAILED, WELL, read_signal
from services.ingest.protocols.protocol import (
    ANY_WORD,
    CUT,
    Address,
    Asked,
    Beat,
    Documented,
    Protocol,
    Translation,
    not_found,
)
from shared.contracts.events import HeartbeatBody, Limits
from shared.contracts.heartbeats import body_as_message, declaring, quoted, read_seconds
from shared.http.bodies import BODY_MAX
from shared.http.problems import Problem

UNPACKED_MAX = 8 * 1024 * 1024
"""Bytes of an envelope that comes compressed: more may be a bomb."""
UNPACKED_AT_ONCE = 1024 * 1024
"""Bytes after which brotli, which goes up to twice as far, is asked for more."""
MEMBERS_MAX = 1000
"""Of gzip, one after the other."""
_GZIP = b"\x1f\x8b"
ENCODINGS = "gzip, deflate, br"
CHECK_INS_MAX = 100
"""In one envelope."""
LINES_MAX = 10_000
"""The same, of those that are no payload."""
STARTED = "in_progress"
_FAILED = (*FAILED, "timeout", "missed")
_FIELDS = frozenset(("status", "check_in_id", "duration", "environment", "monitor_config"))
_LIMITS = {
    "checkin_margin": ("down_after", 60),
    "max_runtime": ("max_run", 60),
    "failure_issue_threshold": ("fail_after", 0),
    "recovery_threshold": ("recover_after", 0),
}
"""What each is here, and the seconds of its unit; 0: it is a count."""
_UNITS: dict[str, str | int] = {"minute": "m", "hour": "h", "day": "d", "week": 7, "month": 30, "year": 365}
"""As durations write it, or in days."""
_ID = re.compile(r"[0-9a-fA-F-]{1,36}")
_KEY_IN_HEADER = re.compile(r"sentry_key\s*=\s*([^\s,]+)")
_KEY_IN_DSN = re.compile(r"[a-z]+://([^:@/\s]+)(?::[^@/\s]*)?@")


def read_address(asked: Asked) -> Address:
    _, *parts = asked.parts
    match parts:
        case ["envelope"]:
            return Address(_key_of(asked), rest="envelope")
        case ["cron", name] if name:
            return Address(_key_of(asked) or "", name=name)
        case ["cron", name, key] if name:
            return Address(key, name=name)
    raise not_found()


def _key_of(asked: Asked) -> str | None:
    header = asked.headers.get("x-sentry-auth") or asked.headers.get("authorization", "")
    found = _KEY_IN_HEADER.search(header)
    return found[1] if found else asked.query.get("sentry_key")


def read(asked: Asked, address: Address, raw: bytes) -> Translation:
    encoding, lost = asked.headers.get("content-encoding", ""), ""
    if address.rest == "envelope":
        return _read_envelope(asked, address, _unpacked(raw, encoding))
    try:
        raw = _unpacked(raw, encoding)
    except Problem as problem:  # the address alone says enough
        raw, lost = b"", f"body: {problem.detail}"
    body, message = _object(raw), None
    lost_status = bool(lost) or (body is None and not _is_text(raw))
    if body is None or body.keys().isdisjoint(_FIELDS):
        body, message = {}, body_as_message(raw, asked.headers.get("content-type", ""))
    fields = {**asked.query, **body}
    beat = _check_in(address.name, fields, message)
    if lost:
        beat.warnings.append(lost)
    if asked.is_cut and "status" not in body:
        beat.warnings.append(CUT)
    elif lost_status and not fields.get("status"):
        beat.warnings.append("body: it cannot be read, and may say that it failed; it counts as a failure")
    else:
        return Translation([beat], id=_id_of(fields))
    beat = beat._replace(headers=read_signal("fail"))
    return Translation([beat], id=_id_of(fields))


def _read_envelope(asked: Asked, address: Address, raw: bytes) -> Translation:
    """Its check-ins. What cannot be read costs none of those that can."""
    lines = io.BytesIO(raw)
    header = _object(lines.readline())
    if header is None:
        raise Problem(400, "this is no envelope: its first line is not a JSON object")
    dsn = _KEY_IN_DSN.match(str(header.get("dsn", ""))[:2000])
    secret = dsn[1] if dsn else ""
    if address.secret is None and not asked.lets_in(secret):
        return Translation([], secret)  # its schedules alone may take half a minute
    beats, lost, given, sent_at = list[Beat](), "", header.get("event_id"), _moment(header.get("sent_at"))
    for number, line in enumerate(lines):
        if number > LINES_MAX:
            raise Problem(413, f"an envelope holds at most {LINES_MAX} lines beside its payloads")
        if not line.strip():
            continue
        item = _object(line)
        if item is None:  # so where the next one begins is not known
            lost = "the header of an item cannot be read"
            break
        length = item.get("length")
        if isinstance(length, int) and not isinstance(length, bool) and length >= 0:
            payload = lines.read(min(length, len(raw)))
        else:
            payload = lines.readline()
        if item.get("type") != "check_in":
            continue
        fields = _object(payload)
        name = fields.get("monitor_slug") if fields else None
        if fields is None or not isinstance(name, str) or not name:
            lost = "a check-in cannot be read, or does not say monitor_slug"
            continue
        given = given or fields.get("check_in_id")
        beats.append(_check_in(name, fields, None)._replace(sent_at=sent_at))
        if len(beats) > CHECK_INS_MAX:
            raise Problem(413, f"an envelope holds at most {CHECK_INS_MAX} check-ins")
    if lost and not beats:
        raise Problem(400, lost)
    if lost:
        beats[-1].warnings.append(f"envelope: {lost}")
    return Translation(beats, secret, _id_of({"check_in_id": given}))


def _check_in(name: str, fields: Mapping[str, Any], message: str | None) -> Beat:
    warnings: list[str] = []
    headers = read_signal(_signal(fields.get("status"), warnings))
    duration = None
    if (given := fields.get("duration")) not in (None, ""):
        try:
            duration = read_seconds(str(given)[:400] if isinstance(given, str | int | float) else "")
        except ValueError:
            warnings.append(f"duration: {quoted(given)} is not a number of seconds")
    declared: dict[str, Any] = {}
    limits: Limits | None = None
    config = fields.get("monitor_config")
    if isinstance(config, str):
        config = _object(config.encode(errors="replace"))
    if isinstance(config, dict):
        declared, limits = _declared(config, warnings), _limits(config, warnings)
    elif fields.get("monitor_config") is not None:
        warnings.append("monitor_config: it is not an object")
    run = fields.get("check_in_id")
    if isinstance(run, str) and run.strip("0-"):
        declared["run"] = run
    environment = fields.get("environment")
    metadata = {"environment": _text(environment)} if isinstance(environment, str) and environment else None
    body = HeartbeatBody(message=message, metadata=metadata, limits=limits)
    return Beat(name, declaring(body, declared, warnings), headers, warnings, duration)


def _signal(status: Any, warnings: list[str]) -> str:
    word = status.strip().lower() if isinstance(status, str) else ""
    if word == STARTED:
        return "start"
    if word in _FAILED:
        return "fail"
    if status is None or status == "":
        warnings.append("status: it is none of in_progress, ok or error; it counts as ok")
    elif word not in WELL:
        warnings.append(f"status: {quoted(status)} is not in_progress, ok or error; it counts as a failure")
        return "fail"
    return ""


def _declared(config: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """When it is due, as our own heartbeats say it."""
    schedule, kind, unit = config.get("schedule"), config.get("schedule_type"), None
    if isinstance(schedule, dict):
        kind, unit, schedule = schedule.get("type"), schedule.get("unit"), schedule.get("value")
    elif isinstance(schedule, list) and len(schedule) == 2:
        kind, (schedule, unit) = "interval", schedule
    if schedule is None:
        return {}
    if kind == "interval":
        return {"every": _every(schedule, unit)}
    if kind not in ("crontab", None):
        warnings.append(f"schedule: {quoted(kind)} is neither crontab nor interval")
        return {}
    zone = config.get("timezone")
    return {"schedule": schedule} | ({"time_zone": zone} if zone else {})


def _every(value: Any, unit: Any) -> Any:
    """As a duration is written here; what is none is left as it is, and refused where durations are read."""
    length = _UNITS.get(unit.rstrip("s").lower()) if isinstance(unit, str) else None
    number = str(value)[:20]
    if length is None or isinstance(value, bool) or not (number.isascii() and number.isdigit()):
        return f"{number} {unit if isinstance(unit, str) else ''}"
    return f"{number}{length}" if isinstance(length, str) else f"{int(number) * length}d"


def _limits(config: Mapping[str, Any], warnings: list[str]) -> Limits | None:
    found: dict[str, Any] = {}
    for given, (field, seconds) in _LIMITS.items():
        value = config.get(given)
        if value is None or (value == 0 and seconds):
            continue
        try:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e7:
                raise ValueError
            read = timedelta(seconds=value * seconds) if seconds else value
            found[field] = getattr(Limits.model_validate({field: read}), field)
        except ValueError:
            what = "minutes" if seconds else "times"
            warnings.append(f"{given}: {quoted(value)} is not a number of {what} that can be used")
    return Limits(**found) if found else None


def _moment(given: Any) -> float | None:
    try:
        return datetime.fromisoformat(given).timestamp() if isinstance(given, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _object(raw: bytes) -> dict[str, Any] | None:
    if len(raw) > BODY_MAX:  # unpacked; as objects it would be many times larger
        return None
    try:
        found = json.loads(raw, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_text(raw: bytes) -> bool:
    """Nothing, or text that was not to be an object: all of it is the message."""
    try:
        return not raw.decode("utf-8-sig").lstrip().startswith("{")
    except ValueError:
        return False


def _text(given: str) -> str:
    return given[:200].encode(errors="replace").decode().replace("\0", "")


def _unpacked(raw: bytes, encoding: str) -> bytes:
    """Raises Problem 400, 413, 415."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") and not raw.startswith(_GZIP):
        return raw
    if encoding == "br":
        return _unpacked_brotli(raw)
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise Problem(
            415, f"compressed by one of {ENCODINGS}, or not at all", headers={"Accept-Encoding": ENCODINGS}
        )
    for bits in (47, -15):  # gzip or zlib, by how it begins; else deflate alone
        with contextlib.suppress(zlib.error):
            return _inflated(raw, bits)
    raise _broken()


def _inflated(raw: bytes, bits: int) -> bytes:
    """All members of it (RFC 1952). Raises zlib.error."""
    parts, room = list[bytes](), UNPACKED_MAX
    while len(parts) < MEMBERS_MAX:
        unpacker = zlib.decompressobj(bits)
        parts.append(unpacker.decompress(raw, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise _too_large()
        if not unpacker.eof:
            raise zlib.error("it is cut off")
        raw = unpacker.unused_data
        if not raw.startswith(_GZIP):
            return b"".join(parts)
    raise Problem(413, f"it has more than {MEMBERS_MAX} members")


def _unpacked_brotli(raw: bytes) -> bytes:
    unpacker, unpacked = brotli.Decompressor(), bytearray()
    try:
        while not unpacker.is_finished():
            part = unpacker.process(raw, output_buffer_limit=UNPACKED_AT_ONCE)
            unpacked += part
            if len(unpacked) > UNPACKED_MAX:
                raise _too_large()
            if not part:  # the rest is missing
                raise _broken()
            raw = b""
    except brotli.error:
        raise _broken() from None
    return bytes(unpacked)


def _too_large() -> Problem:
    return Problem(413, f"unpacked, it is larger than {UNPACKED_MAX} bytes")


def _broken() -> Problem:
    return Problem(400, "it cannot be unpacked")


def _id_of(fields: Mapping[str, Any]) -> str:
    """What the answer calls the check-in: as it calls itself, or a new id."""
    given = fields.get("check_in_id")
    if isinstance(given, str) and _ID.fullmatch(given) and given.strip("0-"):
        return given
    return uuid.uuid4().hex


def answer(said: Translation, registered: bool) -> Response:
    return JSONResponse({"id": said.id}, 202)


_CHECK_IN = {
    "status": "in_progress, ok or error",
    "check_in_id": "The client's id of the run that begins or ends",
    "duration": "How long it took, in seconds",
    "environment": "Kept in the metadata",
}

PROTOCOL = Protocol(
    "Sentry",
    re.compile("/api/(?=[0-9]+/)"),
    ("GET", "POST", "PUT"),
    (
        Documented(
            "/api/{project}/cron/{name}/{token}/",
            "A check-in: a run of a service has begun, or ended",
            ("GET", "POST"),
            {
                "project": "Digits",
                "name": "The service's",
                "token": ANY_WORD,
            }
            | _CHECK_IN,
            True,
        ),
        Documented(
            "/api/{project}/envelope/",
            "The check-ins in an envelope; everything else in it is let go by",
            ("POST",),
            {"project": "Digits", "sentry_key": "An ingest token, where no header X-Sentry-Auth shows one"},
            True,
        ),
    ),
    read_address,
    read,
    answer,
    {202: '`{"id": …}`', 400: "This is no envelope", 415: f"Compressed otherwise than by {ENCODINGS}"},
)
