"""Logging in and out of the dashboard."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from services.api.context import Api
from services.api.dashboard.rendering import page
from services.api.http.auth import Role
from shared.http import bodies
from shared.http.problems import Problem

router = APIRouter()


class LoginNeeded(Exception):
    """Whoever asks for this page must log in first."""


async def ask_to_log_in(request: Request, _: Exception) -> Response:
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/ui/login?{urlencode({'next': here})}", 303)


async def may_view(request: Request, api: Api) -> None:
    """A dependency of pages."""
    request.state.seq = api.hub.published_through  # before anything is read, so that nothing is missed
    if api.auth.role(request) is Role.NOBODY:
        if "text/html" not in request.headers.get("accept", ""):
            api.auth.may_read(request)
        raise LoginNeeded
    api.check_caught_up()


async def _read_form(request: Request) -> Mapping[str, str]:
    """A form as browsers send it. Problem 413 or 422 if it is larger than a form of ours, or none."""
    try:
        text = (await bodies.read(request)).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise Problem(422, "body: not a form of this page") from None


Form = Annotated[Mapping[str, str], Depends(_read_form)]


async def may_submit(request: Request, form: Form, api: Api) -> None:
    """A dependency of forms that change something."""
    api.auth.may_submit(request, form.get("form_key", ""))


@router.get("/ui/login", response_class=HTMLResponse)
async def login(request: Request, next: str = "/") -> Response:
    return page(request, "login.html", next=_local_path(next), refused="")


@router.post("/ui/login")
async def log_in(request: Request, form: Form, api: Api) -> Response:
    target = _local_path(form.get("next", "/"))
    response: Response = RedirectResponse(target, 303)
    if api.auth.log_in(request, form.get("token", "").strip(), response):
        return response
    return page(request, "login.html", 401, next=target, refused="That token is not known here.")


@router.post("/ui/logout")
async def log_out(request: Request, form: Form, api: Api) -> Response:
    api.auth.same_session(request, form.get("form_key", ""))
    response = RedirectResponse("/ui/login", 303)
    await api.auth.log_out(request, response)
    return response


def _local_path(target: str) -> str:
    """A path of ours to go on to; the first page if it leads elsewhere."""
    parts = urlsplit(target)
    good = target.startswith("/") and not parts.netloc and not parts.scheme and "\\" not in target
    return quote(target, safe="/?&=%:,.~-_*") if good and not target.startswith("//") else "/"
