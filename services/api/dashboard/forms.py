"""What the forms of the pages do."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from services.api import channels
from services.api.context import Api, ApiContext
from services.api.dashboard import editing
from services.api.dashboard.login import Form, may_submit
from services.api.dashboard.pages import maintenance_page, notifications_page, service_page
from services.api.http.channels import ChannelName
from services.api.http.models import MuteWanted, NoteWanted
from services.api.http.requests import listed, read_tags
from services.api.http.routing import Actor, NameInPath
from shared.contracts import durations, zones
from shared.contracts.maintenance import Window
from shared.http.problems import Problem, explain

router = APIRouter(dependencies=[Depends(may_submit)])

NOTE_MAX = 2000

Command = Coroutine[Any, Any, object]


async def _run(command: Command, then: str, refused: Callable[[int, str], Awaitable[Response]]) -> Response:
    """Run a command and go on to `then`; or to the page that says why not."""
    try:
        await command
    except ValidationError as error:
        return await refused(422, explain(error.errors()))
    except Problem as problem:
        if problem.status == 404:
            raise
        return await refused(problem.status, problem.detail)
    return RedirectResponse(then, 303)


async def _change(
    request: Request, api: ApiContext, name: str, action: str, command: Command, form: Form | None = None
) -> Response:
    """Run a command; back to the service's page, which says that `action` was done, or why not, with what was
    filled into its form."""
    refused = partial(service_page, request, api, name, given={action: form or {}})
    return await _run(command, f"/ui/service/{name}?done={action}#page", refused)


@router.post("/ui/service/{name}/edit")
async def edit(request: Request, name: NameInPath, form: Form, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "edit", _edit(api, name, form, actor), form)


async def _edit(api: ApiContext, name: str, form: Mapping[str, str], actor: str) -> None:
    wanted = editing.wanted(form, await api.state(name))
    await api.commands.merge(name, wanted, form.get("version") or None, actor=actor)


@router.post("/ui/service/{name}/pause")
async def pause(request: Request, name: NameInPath, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "pause", api.commands.set_paused(name, True, None, actor=actor))


@router.post("/ui/service/{name}/resume")
async def resume(request: Request, name: NameInPath, api: Api, actor: Actor) -> Response:
    return await _change(
        request, api, name, "resume", api.commands.set_paused(name, False, None, actor=actor)
    )


@router.post("/ui/service/{name}/ack")
async def acknowledge(request: Request, name: NameInPath, form: Form, api: Api, actor: Actor) -> Response:
    note = form.get("note", "").strip()[:NOTE_MAX] or None
    return await _change(request, api, name, "ack", api.incidents.acknowledge(name, note, actor), form)


@router.post("/ui/service/{name}/release")
async def release(request: Request, name: NameInPath, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "release", api.incidents.release(name, actor))


@router.post("/ui/service/{name}/mute")
async def mute(request: Request, name: NameInPath, form: Form, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "mute", _mute(api, name, form.get("length", ""), actor))


async def _mute(api: ApiContext, name: str, length: str, actor: str) -> None:
    wanted = {"until_alive": True} if length == "until_alive" else {"for": length}
    await api.incidents.mute(name, MuteWanted.model_validate(wanted), actor)


@router.post("/ui/service/{name}/unmute")
async def unmute(request: Request, name: NameInPath, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "unmute", api.incidents.unmute(name, actor))


@router.post("/ui/service/{name}/note")
async def add_note(request: Request, name: NameInPath, form: Form, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "note", _note(api, name, form, actor), form)


async def _note(api: ApiContext, name: str, form: Mapping[str, str], actor: str) -> None:
    wanted = NoteWanted.model_validate({"text": form.get("text", "").replace("\r\n", "\n")})
    rows = await api.store.live.incident(form.get("incident", "")[:64])
    if not rows or rows[0]["name"] != name:
        raise Problem(404, "there is no such incident")
    await api.incidents.note(name, rows[0]["begins"], wanted.text, actor)


@router.post("/ui/service/{name}/ping-key")
async def renew_ping_key(request: Request, name: NameInPath, api: Api, actor: Actor) -> Response:
    return await _change(request, api, name, "ping-key", api.commands.renew_ping_key(name, None, actor=actor))


@router.post("/ui/service/{name}/delete")
async def delete(name: NameInPath, api: Api, actor: Actor) -> Response:
    await api.commands.delete(name, None, actor=actor)
    return RedirectResponse("/", 303)


# --- notifications


@router.post("/ui/notifications/{name}/test")
async def test_channel(request: Request, name: ChannelName, api: Api) -> Response:
    return await _act_on_channel(request, api, name, "test", channels.send_test(api.link, name))


@router.post("/ui/notifications/{name}/on")
async def switch_channel_on(request: Request, name: ChannelName, api: Api) -> Response:
    return await _act_on_channel(request, api, name, "on", channels.switch_on(api.link, name))


async def _act_on_channel(
    request: Request, api: ApiContext, name: str, action: str, command: Command
) -> Response:
    then = f"/ui/notifications?{urlencode({'done': action, 'channel': name})}#page"
    return await _run(command, then, partial(notifications_page, request, api, name))


# --- maintenance


@router.post("/ui/service/{name}/maintenance")
async def begin_maintenance(
    request: Request, name: NameInPath, form: Form, api: Api, actor: Actor
) -> Response:
    command = _begin_maintenance(api, name, form.get("duration", ""), actor)
    return await _change(request, api, name, "maintenance", command, form)


async def _begin_maintenance(api: ApiContext, name: str, duration: str, actor: str) -> None:
    await api.state(name)
    try:
        length = durations.parse(duration.strip())
    except ValueError as error:
        raise Problem(422, f"duration: {error}") from None
    now = api.now()
    window = Window(title="From its page", services=(name,), starts_at=now, ends_at=now + length)
    await api.maintenance.add(window, now, actor)


@router.post("/ui/maintenance")
async def add_window(request: Request, form: Form, api: Api, actor: Actor) -> Response:
    given = {field: value.strip() for field, value in form.items() if value.strip()}
    return await _run(
        _add_window(api, given, actor), "/ui/maintenance", partial(maintenance_page, request, api, given)
    )


async def _add_window(api: ApiContext, given: Mapping[str, str], actor: str) -> None:
    try:
        window = _window(given, api.settings.zone)
    except ValidationError:
        raise
    except (ValueError, KeyError) as error:
        raise Problem(422, str(error)) from None
    await api.maintenance.add(window, api.now(), actor)


def _window(given: Mapping[str, str], zone: ZoneInfo) -> Window:
    """The window that a form describes. Raises ValueError or Problem."""
    if "time_zone" in given:
        zone = zones.zone(given["time_zone"])
    fields: dict[str, Any] = {
        key: given[key] for key in ("title", "cron", "time_zone", "duration") if key in given
    }
    for key in ("starts_at", "ends_at"):
        if key in given:
            entered = datetime.fromisoformat(given[key])
            fields[key] = entered if entered.tzinfo else entered.replace(tzinfo=zone)
    return Window(
        services=tuple(listed([given.get("services", "")])),
        tags=tuple(read_tags(given.get("tags", ""))),
        **fields,
    )


@router.post("/ui/maintenance/{id}/delete")
async def delete_window(id: str, api: Api, actor: Actor) -> Response:
    await api.maintenance.delete(id, None, actor)
    return RedirectResponse("/ui/maintenance", 303)
