"""Gatus' external endpoints: `POST /api/v1/endpoints/GROUP_NAME/external?success=true&duration=10s`."""

import json
import re

from starlette.responses import Response

from services.ingest.auth import bearer
from services.ingest.content import read_signal
from services.ingest.protocols.protocol import (
    Address,
    Asked,
    Beat,
    Documented,
    Protocol,
    Translation,
    not_found,
)
from shared.contracts.events import HeartbeatBody
from shared.contracts.heartbeats import body_as_message, quoted, read_seconds
from shared.http.problems import Problem

_SUCCESS = {"true": "", "false": "fail"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
"""To be read in one way alone: of two ways for each of twenty parts there would be a million."""
_PART = re.compile(rf"{_NUMBER}({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_PART.pattern}){{1,20}})")


def read_address(asked: Asked) -> Address:
    match asked.parts:
        case (name, "external") if name:
            pass
        case _:
            raise not_found()
    if asked.query.get("success") not in _SUCCESS:
        raise Problem(400, "success: true or false is needed")
    secret = bearer(asked.headers.get("authorization", ""))
    service = asked.of_key(secret) or ""
    if service not in (name, asked.of_key(name)):  # a key is good for its own service only
        service = ""
    return Address(secret, service, name=name)


def read(asked: Asked, address: Address, raw: bytes) -> Translation:
    query, warnings = asked.query, list[str]()
    signal = read_signal(_SUCCESS[query["success"]])
    error = _error_in(raw)
    kind = asked.headers.get("content-type", "")
    message = body_as_message(error.encode() if error else raw, "" if error else kind, query.get("error", ""))
    duration = None
    if given := query.get("duration"):
        try:
            duration = seconds_of(given)
        except ValueError as wrong:
            warnings.append(f"duration: {wrong}")
    return Translation([Beat(address.name, HeartbeatBody(message=message), signal, warnings, duration)])


def _error_in(raw: bytes) -> str:
    """Of a body such as `{"error": "…"}`; empty if it is another one."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    only = isinstance(fields, dict) and fields.keys() == {"error"} and isinstance(fields["error"], str)
    return fields["error"].encode(errors="replace").decode() if only else ""


def seconds_of(given: str) -> float:
    """A duration as Go writes it: `10s`, `1m30s`, `250ms`. ValueError if it is none that a run can take."""
    if not _DURATION.fullmatch(given):
        raise ValueError(f"{quoted(given)} is not a duration such as 10s, 1m30s, 250ms")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(given))
    return read_seconds(-seconds if given.startswith("-") else seconds)


def answer(_: Translation, registered: bool) -> Response:
    return Response()


PROTOCOL = Protocol(
    "Gatus",
    re.compile("/api/v1/endpoints(?:/|$)"),
    ("POST",),
    (
        Documented(
            "/api/v1/endpoints/{key}/external",
            "A service was found well, or not",
            ("POST",),
            {
                "key": "GROUP_NAME, as Gatus writes it; it is the service's name",
                "success": "`true` or `false`",
                "error": "What was wrong",
                "duration": "How long it took: 10s, 1m30s, 250ms",
            },
            True,
        ),
    ),
    read_address,
    read,
    answer,
    {200: "Nothing", 400: "`success` is missing, or is neither true nor false"},
)
