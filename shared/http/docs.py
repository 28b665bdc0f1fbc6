"""Pages that describe an interface, by OpenAPI, to try it, or AsyncAPI. They load nothing from elsewhere."""

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from faststream.specification import AsyncAPI

_PAGES = Path(__file__).parent / "pages"
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
_OPENAPI_POLICY = _POLICY + (
    "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_ASYNCAPI_POLICY = _POLICY + "style-src 'unsafe-inline'"


def openapi(title: str) -> list[BaseRoute]:
    """`/docs`, in place of FastAPI's own: make the app with `docs_url=None`."""
    page = _page("openapi.html", title=title)
    script = (_PAGES / "openapi.js").read_text(encoding="utf-8")

    async def docs(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _OPENAPI_POLICY})

    async def start(_: Request) -> Response:
        return Response(script, media_type="text/javascript")

    static = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    return [Route("/docs", docs), Route("/docs/start.js", start), Mount("/docs/static", static)]


def asyncapi(document: "AsyncAPI") -> Route:
    """`/asyncapi`: a page for browsers, JSON for everybody else."""

    async def serve(request: Request) -> Response:
        described = document.to_specification().to_jsonable()
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(described)
        text = json.dumps(described, indent=2, ensure_ascii=False)
        return HTMLResponse(
            _page("asyncapi.html", title=described["info"]["title"], document=text),
            headers={"Content-Security-Policy": _ASYNCAPI_POLICY, "X-Content-Type-Options": "nosniff"},
        )

    return Route("/asyncapi", serve, include_in_schema=False)


def _page(name: str, **texts: str) -> str:
    page = Template((_PAGES / name).read_text(encoding="utf-8"))
    return page.substitute({key: escape(text) for key, text in texts.items()})
