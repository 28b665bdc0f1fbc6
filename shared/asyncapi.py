"""Serving an AsyncAPI document."""

from collections.abc import Callable
from urllib.parse import urlsplit

from faststream.specification.asyncapi import get_asyncapi_html
from faststream.specification.base import Specification
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route


def route(document: Callable[[], Specification]) -> Route:
    """`/asyncapi`: the document as a page for browsers, as JSON for everybody else."""

    async def serve(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(get_asyncapi_html(document()))
        return JSONResponse(document().to_jsonable())

    return Route("/asyncapi", serve, include_in_schema=False)


def without_secrets(url: str) -> str:
    """A broker's address, for a document that anyone may read."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
