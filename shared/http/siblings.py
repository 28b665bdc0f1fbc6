"""What ingest and the API answer alike: `/exec.py`, and where the other of the two is."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import shared.exec
from shared.settings import Settings

_URL = 'URL = ""'


def exec_py(settings: Settings) -> BaseRoute:
    """The wrapper in one file, for everybody. It knows the public address, if that is configured."""
    text = Path(shared.exec.__file__).read_text(encoding="utf-8")
    if "public_url" in settings.model_fields_set:
        text = text.replace(f"\n{_URL}\n", f'\nURL = "{settings.public_url.rstrip("/")}"\n', 1)
    content = text.encode()

    async def serve(_: Request) -> Response:
        return Response(content, media_type="text/x-python", headers={"cache-control": "no-cache"})

    return Route("/exec.py", serve, include_in_schema=False)


def sibling_url(request: Request, settings: Settings, own: int, other: int) -> str:
    """The base URL of the service at port `other`, for who asks the one at port `own`: beside it, or, if a
    proxy was asked, the public address. No slash at the end."""
    asked = urlsplit(f"//{request.headers.get('host', '')}")
    try:
        beside = asked.hostname and asked.port == own
    except ValueError:
        beside = False
    if not beside:
        return settings.public_url.rstrip("/")
    host = asked.hostname or ""
    return f"http://[{host}]:{other}" if ":" in host else f"http://{host}:{other}"
