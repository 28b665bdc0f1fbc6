"""Reading what clients send: bodies, names and lists, each refused with the rule it breaks."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Path, Request
from pydantic import BaseModel, ValidationError

from shared.contracts.events import NAME_MAX, NAME_RULE_IN_WORDS, valid_name
from shared.http import bodies
from shared.http.problems import Problem, explain

B = TypeVar("B", bound=BaseModel)


def body(kind: type[B]) -> Callable[[Request], Coroutine[Any, Any, B]]:
    """A dependency that reads JSON of this kind, whatever content type the client names."""

    async def read(request: Request) -> B:
        try:
            return await bodies.parsed(kind.model_validate_json, request)
        except ValidationError as error:
            raise Problem(422, explain(error.errors(include_input=False, include_url=False))) from None

    return read


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


IfMatch = Annotated[str | None, Header(description="Only if the version is still this ETag.")]
NameInPath = Annotated[str, Depends(_checked)]


def is_stale(if_match: str | None, version: int) -> bool:
    """Whether the client's condition fails: it is neither `*` nor names this version, quoted or weak."""
    if if_match is None or if_match.strip() == "*":
        return False
    return str(version) not in {tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")}


def listed(values: list[str]) -> list[str]:
    """What was given repeatedly, or with commas between, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
