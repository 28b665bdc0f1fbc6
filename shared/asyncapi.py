"""Serving an AsyncAPI document."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from faststream.specification.base import Specification


def route(document: Callable[[], "Specification"]) -> Route:
    """`/asyncapi`: the document as a page for browsers, as JSON for everybody else."""

    async def serve(request: Request) -> Response:
        from faststream.specification.asyncapi import get_asyncapi_html  # only who asks for it pays for it

        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(get_asyncapi_html(document()))
        return JSONResponse(document().to_jsonable())

    return Route("/asyncapi", serve, include_in_schema=False)


def without_secrets(url: str) -> str:
    """A broker's address, for a document that anyone may read."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
