"""Serving an AsyncAPI document."""

import json
from html import escape
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from faststream.specification import AsyncAPI


_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1rem; }}
pre {{ overflow-x: auto; font-size: 0.85rem; }}</style>
</head>
<body>
<h1>{title}</h1>
<p>This AsyncAPI document, as it is sent to whoever does not ask for HTML:</p>
<pre tabindex="0">{document}</pre>
</body>
</html>
"""


def route(document: "AsyncAPI") -> Route:
    """`/asyncapi`: the document as a page that loads nothing for browsers, as JSON for everybody else."""

    async def serve(request: Request) -> Response:
        described = document.to_specification().to_jsonable()
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(described)
        text, title = json.dumps(described, indent=2, ensure_ascii=False), described["info"]["title"]
        return HTMLResponse(
            _PAGE.format(title=escape(title), document=escape(text)),
            headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"},
        )

    return Route("/asyncapi", serve, include_in_schema=False)
