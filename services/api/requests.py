"""Reading what clients send: bodies, names and lists, each refused with the rule it breaks."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ValidationError

from shared.events import NAME_MAX, NAME_RULE_IN_WORDS, valid_name
from shared.problems import Problem, explain

BODY_MAX = 64 * 1024
BODY_WITHIN = 10.0
"""Seconds a client gets to send its body."""

B = TypeVar("B", bound=BaseModel)


def body(kind: type[B]) -> Callable[[Request], Coroutine[Any, Any, B]]:
    """A dependency that reads JSON of this kind, whatever content type the client names."""

    async def read(request: Request) -> B:
        try:
            return kind.model_validate_json(await _raw(request))
        except ValidationError as error:
            raise Problem(422, explain(error.errors(include_input=False, include_url=False))) from None

    return read


async def _raw(request: Request) -> bytes:
    """The body, unless it is too large (413) or does not come in time (408)."""
    too_large = Problem(413, f"the body is larger than {BODY_MAX} bytes", headers={"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > BODY_MAX:
        raise too_large
    raw = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > BODY_MAX:
                    raise too_large
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_WITHIN:g} s") from None
    return bytes(raw)


def documented_body(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """For `openapi_extra`: what FastAPI cannot see, because `body` reads it."""
    content = {"application/json": {"schema": kind.model_json_schema(), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _checked(
    name: Annotated[
        str, Path(description=f"{NAME_RULE_IN_WORDS}; at most {NAME_MAX}.", examples=["my-service"])
    ],
) -> str:
    if not valid_name(name):
        raise Problem(422, f"name: {NAME_RULE_IN_WORDS}")
    return name


NameInPath = Annotated[str, Depends(_checked)]


def listed(values: list[str]) -> list[str]:
    """What was given repeatedly, or with commas between, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
