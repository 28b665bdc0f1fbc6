"""Pages that describe an interface: OpenAPI's, which lets one try it, and AsyncAPI's. They load nothing from
elsewhere."""

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from faststream.specification import AsyncAPI

_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
_OPENAPI_POLICY = _POLICY + (
    "script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_ASYNCAPI_POLICY = _POLICY + "style-src 'unsafe-inline'"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{head}
</head>
<body>
{body}
</body>
</html>
"""
_OPENAPI_HEAD = """<link rel="icon" href="/docs/static/favicon.png">
<link rel="stylesheet" href="/docs/static/swagger-ui.css">"""
_OPENAPI_BODY = """<div id="ui"></div>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>"""
_START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#ui", deepLinking: true, displayRequestDuration: true, validatorUrl: null,
});
"""
_ASYNCAPI_HEAD = """<style>:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem; }
pre { overflow-x: auto; font-size: 0.85rem; }</style>"""
_ASYNCAPI_BODY = """<h1>{title}</h1>
<p>This AsyncAPI document, as clients get it that do not ask for HTML:</p>
<pre tabindex="0">{document}</pre>"""


def openapi(title: str) -> list[BaseRoute]:
    """`/docs`, in place of FastAPI's own: make the app with `docs_url=None`."""
    page = _PAGE.format(title=title, head=_OPENAPI_HEAD, body=_OPENAPI_BODY)

    async def docs(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _OPENAPI_POLICY})

    async def start(_: Request) -> Response:
        return Response(_START, media_type="text/javascript")

    static = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    return [Route("/docs", docs), Route("/docs/start.js", start), Mount("/docs/static", static)]


def asyncapi(document: "AsyncAPI") -> Route:
    """`/asyncapi`: a page for browsers, JSON for everybody else."""

    async def serve(request: Request) -> Response:
        described = document.to_specification().to_jsonable()
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(described)
        text, title = json.dumps(described, indent=2, ensure_ascii=False), escape(described["info"]["title"])
        body = _ASYNCAPI_BODY.format(title=title, document=escape(text))
        return HTMLResponse(
            _PAGE.format(title=title, head=_ASYNCAPI_HEAD, body=body),
            headers={"Content-Security-Policy": _ASYNCAPI_POLICY, "X-Content-Type-Options": "nosniff"},
        )

    return Route("/asyncapi", serve, include_in_schema=False)
