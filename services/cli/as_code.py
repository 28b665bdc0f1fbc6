"""`registry plan`, `apply` and `export`: a configuration file against a running registry."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from services.cli import replays
from services.cli.remote import AsJson, fail
from services.cli.tables import say
from shared.telemetry.visible import visible

if TYPE_CHECKING:
    from shared.contracts.configuration_file import Document

commands = typer.Typer()

TIMEOUT = 600.0
"""Seconds for a registry to store 100,000 services."""
REPLAY_TIMEOUT = 150.0
"""Seconds for it to go through the past."""
CHANGES = 3
"""The exit code of a plan that is not empty."""

Since = Annotated[
    str | None, typer.Option("--since", help="How far back, such as 30d: what would it have told?")
]
FileArgument = Annotated[str, typer.Argument(help="The file; - for standard input.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete what the file once made and has no more.")]


@commands.command()
def plan(file: FileArgument, prune: Prune = False, since: Since = None, as_json: AsJson = False) -> None:
    """Say what `apply` would change, and change nothing. Exit code 0: nothing, 3: something, 2: the file
    cannot be used. With `--since 30d`: also what the file would have told in that time, beside what was
    told."""
    document = read_file(file)
    answer = _post(document, prune=prune, dry=True)
    if since:
        answer["replay"] = _replay(document, prune=prune, since=since)
    _show(answer, as_json, prune=prune, done=False)
    if since and not as_json:
        say("")
        replays.show(answer["replay"])
    if _changed(answer):
        raise typer.Exit(CHANGES)


@commands.command()
def apply(
    file: FileArgument,
    prune: Prune = False,
    if_match: Annotated[
        str | None,
        typer.Option("--if-match", help="Only if nothing was changed since the plan with this etag."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make it so that all is there that the file says. What is broken off is finished by the next time."""
    answer = _post(read_file(file), prune=prune, dry=False, if_match=if_match)
    _show(answer, as_json, prune=prune, done=True)
    if answer["failed"]:
        raise typer.Exit(1)


@commands.command()
def export(as_json: AsJson = False) -> None:
    """Print the file that would make what is there now."""
    from services.cli.client import RequestFailed, api
    from shared.contracts.configuration_file import write

    try:
        response = api("GET", "/configuration", timeout=60)
    except RequestFailed as error:
        fail(str(error))
    found = response.json()
    without = response.headers.get("Registry-Aliases") == "left-out"
    if without:
        say("without aliases, which this token may not read: applied, the file would remove them", err=True)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if without:
        typer.echo("# Without aliases.")
    typer.echo(write(found), nl=False)


def read_file(file: str) -> "Document":
    """The file's content. Ends with exit code 2 where it cannot be read."""
    from shared.contracts.configuration import FILE
    from shared.contracts.configuration_file import FileFault, read

    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        _refuse([f"{file}: {error.strerror}"])
    try:
        return read(content, FILE if file == "-" else file)
    except FileFault as error:
        _refuse(error.faults)


def _post(document: "Document", *, prune: bool, dry: bool, if_match: str | None = None) -> dict[str, Any]:
    """The registry's answer to a file. Ends with exit code 2, and a line for each fault, if it is refused."""
    from services.cli.client import RequestFailed, api
    from shared.contracts.configuration import ConfigurationFaults, parse

    faults: list[tuple[list[Any], str, bool]] = []
    try:
        _, found = parse(document.data)
        faults = [(list(path), why, of_key) for path, why, of_key in found]
    except ConfigurationFaults as error:
        _refuse_parts(document, [(list(path), why, of_key) for path, why, of_key in error.faults])
    body = {"configuration": document.data, "file": Path(document.file).name, "prune": prune}
    headers = {"If-Match": if_match} if if_match else None
    try:
        response = api(
            "POST",
            "/configuration",
            json=body,
            params={"dry": "true" if dry or faults else None},
            headers=headers,
            timeout=TIMEOUT,
        )
    except (RequestFailed, ValueError) as error:
        told = error.problem.get("errors") if isinstance(error, RequestFailed) else None
        if isinstance(told, list) and told:
            _refuse_parts(document, [(it["path"], it["why"], it.get("of_key", False)) for it in told])
        if faults:
            _refuse_parts(document, faults)
        fail(str(error))
    answer: dict[str, Any] = response.json()
    if faults:  # an older registry takes what this version does not
        _refuse_parts(document, faults)
    return answer


def _replay(document: "Document", *, prune: bool, since: str) -> dict[str, Any]:
    """What a file that can be used would have told. Ends with exit code 2 where `since` means nothing."""
    from services.cli.client import RequestFailed, api

    body = {"configuration": document.data, "file": Path(document.file).name, "prune": prune}
    try:
        path = "/configuration/replay"
        answer = api("POST", path, json=body, params={"since": since}, timeout=REPLAY_TIMEOUT)
    except RequestFailed as error:
        fail(str(error), 2 if error.status == 422 else 1)
    found: dict[str, Any] = answer.json()
    return found


def _refuse_parts(document: "Document", faults: Iterable[tuple[list[Any], str, bool]]) -> NoReturn:
    lines = {document.fault(path, why, of_key=of_key) for path, why, of_key in faults}
    _refuse(sorted(lines, key=_place))


def _place(line: str) -> tuple[int, int]:
    number, column = line.split(": ")[0].rsplit(":", 2)[1:]
    return int(number), int(column)


def _refuse(lines: Iterable[str]) -> NoReturn:
    for line in lines:
        say(line, err=True)
    raise typer.Exit(2)


# --- what is shown

_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_KINDS = {
    "service": "",
    "routes": "routes",
    "maintenance": "maintenance window ",
    "status_page": "status page ",
}


def _changed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [change for change in answer["changes"] if change["action"] != "nothing"]


def _show(answer: dict[str, Any], as_json: bool, *, prune: bool, done: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for warning in answer["warnings"]:
        say(f"warning: {warning}", err=True)
    changed = _changed(answer)
    is_terminal = sys.stdout.isatty()
    written = []
    for change in changed:
        name, *fields = _lines(change)
        sign, colour = _SIGNS[change["action"]]
        head = visible(f"{sign} {name}")
        written.append(typer.style(head, fg=colour) if is_terminal else head)
        written += [f"    {visible(field)}" for field in fields]
    sys.stdout.write("".join(f"{line}\n" for line in written))
    adopted = [it for it in answer["changes"] if it["action"] == "nothing" and it["fields"]]
    if adopted:
        be = "are" if done else "would be"
        say(f"{len(adopted)} more {be} managed by this file from now on, and stay as they are")
    if answer["left"]:
        names = ", ".join(_name(change) for change in answer["left"][:10])
        more = ", …" if len(answer["left"]) > 10 else ""
        say(f"not in the file any more, and left as they are (--prune deletes them): {names}{more}")
    for failed in answer["failed"]:
        say(f"failed: {_name(failed)}: {failed['why']}", err=True)
    say(_summary(changed, len(answer["changes"]), done=done))
    if answer["failed"]:
        say("apply it once more to finish it", err=True)


def _summary(changed: list[dict[str, Any]], total: int, *, done: bool) -> str:
    if not changed:
        return "Nothing was changed." if done else "Nothing would be changed."
    counts = {action: sum(it["action"] == action for it in changed) for action in _SIGNS}
    told = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
    if done:
        told = ", ".join(f"{count} {action}d" for action, count in counts.items() if count)
    return f"{told}, {total - len(changed)} as they are"


def _name(change: dict[str, Any]) -> str:
    if change["kind"] == "routes":
        return "routes"
    return _KINDS.get(change["kind"], f"{change['kind']} ") + str(change["name"])


def _lines(change: dict[str, Any]) -> Iterator[str]:
    """What is changed of one: its name, then each field."""
    yield _name(change)
    if change["action"] == "delete":
        return
    fields = {key: value for key, value in change["fields"].items() if key != "managed_by"}
    width = max(map(len, fields), default=0)
    for key, (before, after) in fields.items():
        if change["action"] == "create":
            yield f"{key:{width}}  {_value(after)}"
        elif key == "routes":
            yield from _route_lines(before or [], after or [])
        else:
            yield f"{key:{width}}  {_value(before)} → {_value(after)}"


def _route_lines(before: list[Any], after: list[Any]) -> Iterator[str]:
    yield from (f"- {_value(route)}" for route in before if route not in after)
    yield from (f"+ {_value(route)}" for route in after if route not in before)
    if sorted(map(str, before)) == sorted(map(str, after)):
        yield "in another order"


def _value(value: Any) -> str:
    if value in (None, "", []):
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
