"""`registry`: its commands. Each imports what it needs when it is run."""

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import as_code, quick, remote
from services.cli.imports.commands import commands as import_commands
from services.cli.remote import AsJson, fail
from services.cli.tables import say

if TYPE_CHECKING:
    from services.cli.backup import StreamCopy
    from services.cli.remote_doctor import Finding
    from services.cli.settings import ClientSettings, RunSettings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and those hold secrets
)


# --- heartbeats

_AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_AS_IT_IS)
def beat(context: typer.Context) -> None:
    """Send one heartbeat."""
    quick.main("beat", context.args)


@app.command("exec", context_settings=_AS_IT_IS)
def execute(context: typer.Context) -> None:
    """Run a command and report its start, its end, its duration and its output. Exits with its code."""
    quick.main("exec", context.args)


# --- a registry anywhere

app.add_typer(remote.commands)
app.add_typer(as_code.commands)


@app.command()
def doctor(
    channel: Annotated[str | None, typer.Argument(help="With --send: only to this channel.")] = None,
    send: Annotated[
        bool, typer.Option("--send", help="Also send a test message to each channel, or to this one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check configuration, broker, database, services, tokens and channels, and say what to mend. With
    REGISTRY_URL: what can be seen of that registry from here."""
    if channel and not send:
        fail(f"{channel}: a channel is named together with --send", 2)
    from services.cli.doctor import report

    findings = _found(channel, send)
    if as_json:
        say(json.dumps([{"part": it.part, "said": it.said, "mend": it.mend, "ok": it.ok} for it in findings]))
    else:
        report(findings)
    wrong = [finding.part for finding in findings if not finding.ok]
    if wrong:
        raise typer.Exit(2 if any(part.startswith("settings") for part in wrong) else 1)


def _found(channel: str | None, send: bool) -> list["Finding"]:
    from services.cli import doctor, remote_doctor
    from services.cli.settings import DoctorSettings
    from services.cli.target import WrongVariable, variables
    from shared.settings import load

    try:
        anywhere = bool(variables().get("URL", "").strip())
    except WrongVariable as error:
        fail(str(error), 2)
    if anywhere:
        found = list(remote_doctor.examine_from_here())
        return [*found, *remote_doctor.test_channels(channel)] if send else found
    settings = load(DoctorSettings)

    async def examined() -> list["Finding"]:
        found = [finding async for finding in doctor.examine(settings)]
        return found + (await doctor.test_channels(settings, channel) if send else [])

    return asyncio.run(examined())


# --- the machine of the server


@app.command()
def run() -> None:
    """Start the embedded servers and the four services, and keep them running."""
    from services.cli.settings import RunSettings
    from services.cli.supervisor import run as supervise
    from shared.settings import load
    from shared.telemetry import logs

    logs.begin("run")
    raise typer.Exit(supervise(load(RunSettings)))


@app.command()
def rebuild(as_json: AsJson = False) -> None:
    """Drop the read models and replay them from the streams, while the old ones go on serving."""
    from services.cli.settings import ClientSettings
    from shared.settings import load

    answer = asyncio.run(_rebuild(load(ClientSettings)))
    if "error" in answer:
        fail(answer["error"])
    built = f"{answer.get('services')} services from {answer.get('events')} events, {answer.get('runs')} runs"
    say(json.dumps(answer) if as_json else built)


async def _rebuild(settings: "ClientSettings") -> dict[str, Any]:
    from nats.errors import Error as NatsError

    from services.cli.broker import connect_once
    from shared.http.urls import without_secrets
    from shared.messaging import streams

    try:
        client = await connect_once(settings)
        try:
            reply = await client.request(streams.REBUILD, timeout=600)
            return dict(json.loads(reply.data))
        finally:
            await client.close()
    except (NatsError, OSError, TimeoutError) as error:
        return {"error": f"no answer from the API over {without_secrets(settings.nats_url[0])}: {error!r}"}


@app.command()
def backup(
    file: Annotated[str, typer.Argument(help="Where to; - for standard output.")], as_json: AsJson = False
) -> None:
    """Copy the whole record into one file, while everything goes on."""
    from services.cli import backup as copies
    from services.cli.settings import RunSettings
    from shared.settings import load

    settings = load(RunSettings)
    path = None if file == "-" else Path(file)
    if path and not path.parent.is_dir():
        fail(f"{path.parent} is no folder", 2)
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
    from services.cli import backup as copies
    from services.cli.settings import RunSettings
    from shared.settings import load

    settings = load(RunSettings)
    copied = _with_broker(settings, copies.restore(settings, file, replace=replace))
    _say_copied(copied, as_json, f"restored from {file}; start the services now")


def _with_broker(
    settings: "RunSettings", work: Coroutine[Any, Any, list["StreamCopy"]]
) -> list["StreamCopy"]:
    from services.cli.backup import BackupError
    from services.cli.supervisor import broker

    async def done() -> list["StreamCopy"]:
        async with broker(settings):
            return await work

    try:
        return asyncio.run(done())
    except (BackupError, OSError) as error:
        fail(str(error))
    finally:
        work.close()


def _say_copied(copied: list["StreamCopy"], as_json: bool, done: str, *, err: bool = False) -> None:
    if as_json:
        found = [
            {"stream": copy.name, "messages": copy.messages, "last_seq": copy.last_seq} for copy in copied
        ]
        say(json.dumps(found), err=err)
        return
    for copy in copied:
        say(f"{copy.messages:>10} messages, up to {copy.last_seq:>10}  {copy.name}", err=err)
    say(done, err=err)


# --- where it begins


def _use_url(url: str | None) -> None:
    if url:
        os.environ["REGISTRY_URL"] = url


app.add_typer(import_commands, name="import")


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"registry {version('services-registry')}")
        raise typer.Exit


@app.callback()
def anywhere(
    url: Annotated[
        str | None,
        typer.Option(
            help="The registry's address, in place of REGISTRY_URL.", callback=_use_url, expose_value=False
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Say which this is.", callback=_say_version, is_eager=True, expose_value=False
        ),
    ] = False,
) -> None:
    """The services registry: who is alive, and who is not."""


LOCAL = ("run", "rebuild", "backup", "restore", "beat", "exec", "import")
"""Commands for the machine of the server, those that read it themselves, and one that asks no registry."""


GROUPS = {
    "Heartbeats": ("beat", "exec"),
    "What there is": ("services", "status", "runs", "incidents", "events"),
    "What is done about it": ("ack", "release", "mute", "unmute", "pause", "resume", "maintenance"),
    "Configuration": ("set", "delete", "plan", "apply", "export", "import"),
    "The registry itself": ("doctor", "run", "rebuild", "backup", "restore"),
}
"""Commands in the order of `--help`."""


def main() -> None:
    command: Any = typer.main.get_command(app)
    for title, names in GROUPS.items():
        for each in filter(None, [command.commands.pop(name, None) for name in names]):
            each.rich_help_panel = title
            command.commands[each.name] = each
    _let_have(next(option for option in command.params if option.name == "url"), command)
    command()


def _let_have(option: Any, group: Any) -> None:
    """Every command that asks a registry may be told which behind its name, too."""
    for name, command in group.commands.items():
        if name not in LOCAL:
            command.params.append(option)
            if hasattr(command, "commands"):
                _let_have(option, command)
