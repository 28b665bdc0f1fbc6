"""`registry`: the command line."""

import asyncio
import json
import os
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from nats.errors import Error as NatsError
from pydantic import SecretStr

from services.cli import backup as copies
from services.cli import quick
from services.cli.client import (
    RequestFailed,
    api,
    ask,
    connect_once,
    run_line,
    say,
    service_lines,
)
from services.cli.doctor import Finding, examine, report, test_channels
from services.cli.settings import ClientSettings, DoctorSettings, RunSettings
from services.cli.supervisor import broker
from services.cli.supervisor import run as supervise
from shared.http.urls import without_secrets
from shared.messaging import streams
from shared.settings import load, stop
from shared.telemetry import logs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show local variables, and those hold secrets
    help="The services registry: who is alive, and who is not.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the data as JSON.")]


@app.command()
def run() -> None:
    """Start the embedded servers and the four services, and keep them running."""
    logs.begin("run")
    raise typer.Exit(supervise(load(RunSettings)))


_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_AS_IT_IS)
def beat(context: typer.Context) -> None:
    """Send one heartbeat."""
    quick.main("beat", context.args)


@app.command("exec", context_settings=_AS_IT_IS)
def execute(context: typer.Context) -> None:
    """Run a command and report its start, its end, its duration and its output. Exits with its code."""
    quick.main("exec", context.args)


@app.command()
def services(
    status: Annotated[str | None, typer.Option(help="Only these, such as down,silent.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the services, problems first."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"status": status, "cursor": cursor, "sort": "status", "limit": 500}
        page = _api("/services", {key: value for key, value in query.items() if value is not None})
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
    if as_json:
        say(json.dumps(items))
        return
    for item in items:
        heard, paused = item["last_heartbeat"] or "never", "  (paused)" if item["paused"] else ""
        say(f"{item['status']:8} {item['name']}  last heartbeat {heard}{paused}")


@app.command()
def status(name: Annotated[str, typer.Argument(help="The service's name.")], as_json: AsJson = False) -> None:
    """Show one service, with its schedule and when it is expected next."""
    service = _api(f"/service/{quote(name, safe='')}")
    if as_json:
        say(json.dumps(service))
        return
    for line in service_lines(service):
        say(line)


@app.command()
def runs(
    name: Annotated[str, typer.Argument(help="The service's name.")],
    outcome: Annotated[str | None, typer.Option(help="Only these, such as failure,missed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs of a service, the newest first."""
    query = {"limit": limit} | ({} if outcome is None else {"outcome": outcome})
    items = _api(f"/service/{quote(name, safe='')}/runs", query)["items"]
    if as_json:
        say(json.dumps(items))
        return
    for item in items:
        say(run_line(item))


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Drop the read models and replay them from the streams, while the old ones go on serving."""
    answer = asyncio.run(_rebuild(load(ClientSettings)))
    if "error" in answer:
        _fail(answer["error"])
    built = f"{answer.get('services')} services from {answer.get('events')} events, {answer.get('runs')} runs"
    say(json.dumps(answer) if as_json else built)


@app.command()
def doctor(
    channel: Annotated[str | None, typer.Argument(help="With --send: only to this channel.")] = None,
    send: Annotated[
        bool, typer.Option("--send", help="Also send a test message to each channel, or to this one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check configuration, broker, database, services and Telegram, and say what to mend."""
    if channel and not send:
        stop(f"{channel}: a channel is named together with --send")
    settings = load(DoctorSettings)

    async def examined() -> list[Finding]:
        return [finding async for finding in examine(settings)] + (
            await test_channels(settings, channel) if send else []
        )

    findings = asyncio.run(examined())
    if as_json:
        say(json.dumps([{**asdict(finding), "ok": not finding.mend} for finding in findings]))
    else:
        report(findings)
    if any(finding.part.startswith("settings") and finding.mend for finding in findings):
        raise typer.Exit(2)
    if any(finding.mend for finding in findings):
        raise typer.Exit(1)


@app.command()
def backup(
    file: Annotated[str, typer.Argument(help="Where to; - for standard output.")], as_json: AsJson = False
) -> None:
    """Copy the whole record into one file, while everything goes on."""
    settings = load(RunSettings)
    path = None if file == "-" else Path(file)
    if path and not path.parent.is_dir():
        stop(f"{path.parent} is no folder")
    copied = _with_broker(settings, copies.backup(settings, path))
    _say_copied(copied, as_json, f"copied into {file}", err=path is None)


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(help="What `registry backup` has written.", exists=True, dir_okay=False)
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the record that is there, for good.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a copied record back, while the four services are stopped and the broker runs (an embedded one is
    started for it)."""
    settings = load(RunSettings)
    copied = _with_broker(settings, copies.restore(settings, file, replace=replace))
    _say_copied(copied, as_json, f"restored from {file}; start the services now")


def _with_broker(
    settings: RunSettings, work: Coroutine[Any, Any, list[copies.StreamCopy]]
) -> list[copies.StreamCopy]:
    async def done() -> list[copies.StreamCopy]:
        async with broker(settings):
            return await work

    try:
        return asyncio.run(done())
    except (copies.BackupError, OSError) as error:
        _fail(str(error))
    finally:
        work.close()


def _say_copied(copied: list[copies.StreamCopy], as_json: bool, done: str, *, err: bool = False) -> None:
    if as_json:
        found = [
            {"stream": copy.name, "messages": copy.messages, "last_seq": copy.last_seq} for copy in copied
        ]
        say(json.dumps(found), err=err)
        return
    for copy in copied:
        say(f"{copy.messages:>10} messages, up to {copy.last_seq:>10}  {copy.name}", err=err)
    say(done, err=err)


async def _rebuild(settings: ClientSettings) -> dict[str, Any]:
    try:
        client = await connect_once(settings)
        try:
            reply = await client.request(streams.REBUILD, timeout=600)
            return dict(json.loads(reply.data))
        finally:
            await client.close()
    except (NatsError, OSError, TimeoutError) as error:
        return {"error": f"no answer from the API over {without_secrets(settings.nats_url[0])}: {error!r}"}


def _api(path: str, query: dict[str, Any] | None = None) -> Any:
    try:
        return api("GET", path, params=query).json()
    except RequestFailed as error:
        _fail(str(error))


def _request(method: str, url: str, tokens: tuple[SecretStr, ...], **rest: Any) -> Any:
    try:
        return ask(method, url, tokens, **rest)
    except RequestFailed as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    say(message, err=True)
    raise typer.Exit(1)


def _use_url(url: str | None) -> None:
    if url:
        os.environ["REGISTRY_URL"] = url


@app.callback()
def anywhere(
    url: Annotated[
        str | None,
        typer.Option(
            help="The registry's address, in place of REGISTRY_URL.", callback=_use_url, expose_value=False
        ),
    ] = None,
) -> None:
    """The services registry: who is alive, and who is not."""


LOCAL = ("run", "rebuild", "backup", "restore")
"""Commands for the machine of the server."""


def main() -> None:
    command: Any = typer.main.get_command(app)
    _let_have(next(option for option in command.params if option.name == "url"), command)
    command()


def _let_have(option: Any, group: Any) -> None:
    """Every command that asks a registry may be told which behind its name, too."""
    for name, command in group.commands.items():
        if name not in LOCAL:
            command.params.append(option)
            if hasattr(command, "commands"):
                _let_have(option, command)
