"""The commands that ask a registry, wherever it is, and change what is in it."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer

from services.cli import tables
from services.cli.tables import age, instant, say, took
from shared.telemetry.visible import visible

commands = typer.Typer()
maintenance = typer.Typer(help="Maintenance windows: list, add, end.")
commands.add_typer(maintenance, name="maintenance")

SHOWN = 200
"""Characters of a message that a line shows."""
PAGE = 500
COMPLETED = 50
"""Names that the shell is offered."""
ASKED_FOR = 2.0
"""Seconds that somebody waits who has pressed the tab key."""
AGAIN_AFTER = 2.0
"""Seconds until a stream of events that has ended is asked for again."""


def _names(incomplete: str) -> list[str]:
    """For the shell."""
    from services.cli.client import RequestFailed, api

    query = {"q": incomplete, "limit": COMPLETED}
    try:
        items = api("GET", "/services", params=query, timeout=ASKED_FOR).json()["items"]
    except (RequestFailed, SystemExit):
        return []
    return [item["name"] for item in items if item["name"].startswith(incomplete)]


Name = Annotated[str, typer.Argument(help="The service's name.", autocompletion=_names)]
Names = Annotated[list[str], typer.Argument(help="The names of services.", autocompletion=_names)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the data as JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=PAGE, help="How many, the newest first.")]


# --- asking


def ask(method: str, path: str, *, body: Any = None, **query: Any) -> Any:
    """The API's answer, None if it has no content. Ends the process: code 2 for what the API says is wrong
    use, 1 for every other failure."""
    from services.cli.client import RequestFailed, api

    try:
        answer = api(method, path, json=body, params=query)
    except RequestFailed as error:
        fail(str(error), 2 if error.status == 422 else 1)
    return answer.json() if answer.content else None


def pages(path: str, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
    """The items of a list, page by page, at most `limit`."""
    cursor, left = None, limit
    while left is None or left > 0:
        page = ask("GET", path, limit=min(PAGE, left or PAGE), cursor=cursor, **query)
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return
        left = None if left is None else left - len(page["items"])


def fail(message: str, code: int = 1) -> NoReturn:
    say(message, err=True)
    raise typer.Exit(code)


def _service(name: str, rest: str = "") -> str:
    return f"/service/{quote(name, safe='')}{rest}"


def _print_json(data: Any) -> None:
    say(json.dumps(data))


# --- reading


@commands.command()
def services(
    status: Annotated[str | None, typer.Option(help="Only these, such as down,silent.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with all of these tags.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the name or the description.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the services, problems first."""
    items = list(pages("/services", status=status, tag=tag or None, q=search, sort="status"))
    if as_json:
        _print_json(items)
        return
    rows = ((_state(it), it["name"], age(it["since"]), age(it["last_heartbeat"]), _why(it)) for it in items)
    tables.show(("status", "name", "since", "heard", "reason"), rows, nothing="no services")


def _state(service: dict[str, Any]) -> str:
    return "paused" if service["paused"] else str(service["status"])


def _why(service: dict[str, Any]) -> str:
    """What there is to say beside the status: why, who has it in hand, until when it is muted, what runs."""
    said = []
    if service["status"] not in ("alive", "unknown"):
        last_line = (service.get("message") or "").strip().rpartition("\n")[2]
        said.append(": ".join(filter(None, (reason(service), shortened(last_line)))))
    if known := (service.get("incident") or {}).get("acknowledged"):
        said.append(f"{known['by']} has it")
    if muted := service.get("muted"):
        said.append(f"muted until {instant(muted['until']) if muted.get('until') else 'it is alive'}")
    if service.get("running_since"):
        said.append(f"running for {age(service['running_since'])}")
    return "; ".join(filter(None, said))


def reason(service: dict[str, Any]) -> str:
    """With the zone of the times in it, as all other times are UTC."""
    said, zone = service.get("reason"), service.get("time_zone")  # an older API says neither
    return f"{said} ({zone})" if said and zone not in (None, "UTC") and _says_a_time(said) else said or ""


def _says_a_time(text: str) -> bool:
    import re

    return bool(re.search(r"\b\d\d:\d\d\b", text))


@commands.command()
def status(name: Name, as_json: AsJson = False) -> None:
    """Show one service, with its schedule and when it is expected next."""
    service = ask("GET", _service(name))
    if as_json:
        _print_json(service)
        return
    from rich.text import Text

    out = tables.console()
    for key, value in service_fields(service):
        style = tables.STYLES.get(value, "") if key == "status" else ""
        out.print(Text.assemble((f"{visible(key):18} ", "bold"), (visible(value), style)), soft_wrap=True)


_MOMENTS = ("since", "last_heartbeat", "registered_at", "expected", "running_since")


def service_fields(service: dict[str, Any]) -> list[tuple[str, str]]:
    """One service, as the API tells of it, each field as a text."""
    found = []
    for key, value in (service | ({"reason": reason(service)} if "reason" in service else {})).items():
        if value in (None, ""):
            text = "-"
        elif key in _MOMENTS:
            how_long = age(value)
            text = f"{value}  ({how_long if how_long.startswith('in ') else how_long + ' ago'})"
        else:
            text = json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
        found.append((key, text))
    return found


@commands.command()
def runs(
    name: Name,
    outcome: Annotated[str | None, typer.Option(help="Only these, such as failure,missed.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs of a service, the newest first."""
    items = list(pages(_service(name, "/runs"), limit, outcome=outcome))
    if as_json:
        _print_json(items)
        return
    tables.show(("outcome", "at", "age", "took", "what"), map(run_row, items), nothing="no runs")


def run_row(run: dict[str, Any]) -> tuple[str, ...]:
    """One run, as the API tells of it: outcome, when, how long ago, how long, and what else there is."""
    at = run["started_at"] or (run["expected_at"] if run["outcome"] == "missed" else run["ended_at"])
    said = []
    if run["late_by"]:
        said.append(f"{took(run['late_by'])} late")
    if run["exit_code"] is not None:
        said.append(f"exit code {run['exit_code']}")
    if run["run"]:
        said.append(f"run {run['run']}")
    said += filter(None, (run["unusual"], shortened(run["message"])))
    return str(run["outcome"]), instant(at), age(at), took(run["duration"]), "; ".join(said)


def shortened(message: str | None) -> str:
    text = (message or "").strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


@commands.command()
def incidents(
    id: Annotated[str | None, typer.Argument(help="Of one incident: all that happened in it.")] = None,
    open: Annotated[
        bool | None, typer.Option("--open/--closed", help="Only those that last, or only those that do not.")
    ] = None,
    service: Annotated[str | None, typer.Option(help="Only of this one.", autocompletion=_names)] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only of services with all of these.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what began since then (ISO 8601).")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List incidents, the newest first; or show one."""
    if id is not None:
        _incident(id, as_json)
        return
    query = {"open": None if open is None else str(open).lower(), "service": service, "tag": tag or None}
    items = list(pages("/incidents", limit, since=since, **query))
    if as_json:
        _print_json(items)
        return
    rows = (
        (
            it["service"],
            instant(it["began_at"]),
            took(it["seconds"]),
            "lasts" if it["ended_at"] is None else "over",
            _owner(it["acknowledged"]),
            it["id"],
        )
        for it in items
    )
    headings = ("service", "began", "took", "now", "in hand", "id")
    tables.show(headings, rows, nothing="no incidents")


def _owner(known: dict[str, Any] | None) -> str:
    return f"{known['by']}{': ' + known['note'] if known['note'] else ''}" if known else "-"


def _incident(id_: str, as_json: bool) -> None:
    incident = ask("GET", f"/incident/{quote(id_, safe='')}")
    if as_json:
        _print_json(incident)
        return
    ended = f"ended {instant(incident['ended_at'])}" if incident["ended_at"] else "lasts"
    say(f"{incident['service']}: began {instant(incident['began_at'])}, {ended}, {took(incident['seconds'])}")
    say(f"in hand: {_owner(incident['acknowledged'])}")
    rows = ((instant(it["at"]), _kind(it["type"]), it["actor"], _told(it)) for it in incident["events"])
    tables.show(("at", "what", "who", "details"), rows, nothing="nothing is kept of it")


def _kind(type_: str) -> str:
    """`service.status_changed.v1` as people say it."""
    parts = type_.split(".")
    return parts[1].replace("_", " ") if len(parts) == 3 else type_


def _told(event: dict[str, Any]) -> str:
    data = event.get("data") or {}
    if "to" in data and "from" in data:
        return f"{data['from']} → {data['to']}{': ' + data['reason'] if data.get('reason') else ''}"
    if changes := event.get("changes"):
        return ", ".join(f"{it['field']}: {_plain(it['before'])} → {_plain(it['after'])}" for it in changes)
    return ", ".join(
        f"{key} {_plain(value)}" for key, value in data.items() if value not in (None, "", [], {})
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value)


@commands.command()
def events(
    name: Annotated[str | None, typer.Argument(help="Only of this service.", autocompletion=_names)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Every change as it happens.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """What happened to a service, the newest first; with --follow what happens, to all or to one."""
    if follow:
        _follow(name, as_json)
        return
    if name is None:
        fail("the NAME of a service is needed, or --follow", 2)
    items = list(pages(_service(name, "/events"), limit))
    if as_json:
        _print_json(items)
        return
    rows = ((instant(it["at"]), age(it["at"]), _kind(it["type"]), it["actor"], _told(it)) for it in items)
    tables.show(("at", "age", "what", "who", "details"), rows, nothing="no events are kept")


def _follow(name: str | None, as_json: bool) -> None:
    """Print each event until the process is ended; asked for again, from where it was, when it breaks off."""
    import time

    from services.cli.client import RequestFailed, stream

    last = None
    while True:
        try:
            for id_, data in stream("/events", last):
                last = id_ or last
                if name in (None, data.get("service")):
                    _say_event(data, as_json)
            why = "the registry has ended it"
        except RequestFailed as error:
            if last is None or 400 <= error.status < 500:
                fail(str(error), 2 if error.status == 422 else 1)
            why = str(error)
        except KeyboardInterrupt:
            return
        except BrokenPipeError:
            sys.stderr.close()  # else the interpreter complains of it when it ends
            return
        say(f"{why}; asking again", err=True)
        time.sleep(AGAIN_AFTER)


def _say_event(data: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(data)
    else:
        from rich.text import Text

        told, to = _told(data), str((data.get("data") or {}).get("to", ""))
        line = f"{instant(data.get('at'))}  {data.get('service')}  "
        shown = f"{_kind(str(data.get('type')))}  {told}" if not to else told
        text = Text(visible(line)).append(visible(shown), style=tables.STYLES.get(to, ""))
        tables.console().print(text, soft_wrap=True)
    sys.stdout.flush()


# --- changing


def _each(names: list[str], method: str, rest: str, done: str, as_json: bool, body: Any = None) -> None:
    """Do something to each of these services; the others too, where one fails."""
    from services.cli.client import RequestFailed, api

    codes, answers = [0], []
    for name in names:
        try:
            answer = api(method, _service(name, rest), json=body)
        except RequestFailed as error:
            say(f"{name}: {error}", err=True)
            codes.append(2 if error.status == 422 else 1)
            continue
        answers.append(answer.json() if answer.content else {"name": name})
        if not as_json:
            say(f"{name}: {done}")
    if as_json:
        _print_json(answers[0] if len(names) == 1 and answers else answers)
    if code := max(codes):
        raise typer.Exit(code)


@commands.command()
def pause(names: Names, as_json: AsJson = False) -> None:
    """Stop evaluating services. Their heartbeats still count."""
    _each(names, "POST", "/pause", "paused", as_json)


@commands.command()
def resume(names: Names, as_json: AsJson = False) -> None:
    """Evaluate services again."""
    _each(names, "POST", "/resume", "resumed", as_json)


@commands.command()
def ack(
    names: Names,
    note: Annotated[str | None, typer.Option(help="Kept with the incident.")] = None,
    as_json: AsJson = False,
) -> None:
    """You have it in hand: reminders and escalations stop until it is alive again."""
    _each(names, "POST", "/ack", "you have it", as_json, {"note": note} if note else {})


@commands.command()
def release(names: Names, as_json: AsJson = False) -> None:
    """Nobody has it in hand any more."""
    _each(names, "DELETE", "/ack", "nobody has it", as_json)


@commands.command()
def mute(
    name: Name,
    duration: Annotated[str | None, typer.Argument(help="For how long, such as 2h.")] = None,
    until: Annotated[str | None, typer.Option(help="Until this moment (ISO 8601).")] = None,
    until_alive: Annotated[bool, typer.Option("--until-alive", help="Until it is alive again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send nobody the changes of a service, for a while. What is still down at its end is sent then."""
    if sum(map(bool, (duration, until, until_alive))) != 1:
        fail("for how long? One of a DURATION such as 2h, --until and --until-alive is needed", 2)
    body = {"for": duration, "until": until, "until_alive": until_alive or None}
    how_long = f"for {duration}" if duration else f"until {until or 'it is alive'}"
    wanted = {key: value for key, value in body.items() if value}
    _each([name], "POST", "/mute", f"muted {how_long}", as_json, wanted)


@commands.command()
def unmute(names: Names, as_json: AsJson = False) -> None:
    """End the mutes of services."""
    _each(names, "DELETE", "/mute", "not muted", as_json)


@commands.command()
def delete(
    names: Names,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget services. The next heartbeat of one registers it anew."""
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm(f"Forget {', '.join(map(visible, names))}?", abort=True, err=True)
    _each(names, "DELETE", "", "deleted", as_json)


_LISTS = ("tags", "depends_on", "aliases")
_NUMBERS = ("fail_after", "recover_after")
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@commands.command("set")
def set_fields(
    name: Name,
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Any field of the API; FIELD= sets it back."),
    ] = None,
    every: Annotated[str | None, typer.Option(help="The interval it beats at, such as 5m.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="When it is due: cron, or systemd's OnCalendar.")
    ] = None,
    time_zone: Annotated[str | None, typer.Option(help="Of the schedule, such as Europe/Berlin.")] = None,
    early: Annotated[str | None, typer.Option(help="How early a heartbeat counts for the schedule.")] = None,
    silent_after: Annotated[str | None, typer.Option()] = None,
    down_after: Annotated[str | None, typer.Option()] = None,
    dead_after: Annotated[str | None, typer.Option()] = None,
    max_run: Annotated[str | None, typer.Option(help="A run that takes longer is overdue.")] = None,
    fail_after: Annotated[int | None, typer.Option(help="So many failures make it down.")] = None,
    recover_after: Annotated[int | None, typer.Option(help="So many successes make it alive.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option(help="All that it has from now on.")] = None,
    depends_on: Annotated[list[str] | None, typer.Option(help="All that it depends on from now on.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="All ids that lead to it from now on.")] = None,
    notify: Annotated[bool | None, typer.Option(help="Whether its changes are sent to anybody.")] = None,
    notify_unusual: Annotated[bool | None, typer.Option(help="Whether unusual runs are.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a service, or register it with that: `set db --every 5m --tag db`, or
    `set db every=5m max_run=`."""
    given = {
        "every": every,
        "schedule": schedule,
        "time_zone": time_zone,
        "early": early,
        "silent_after": silent_after,
        "down_after": down_after,
        "dead_after": dead_after,
        "max_run": max_run,
        "fail_after": fail_after,
        "recover_after": recover_after,
        "description": description,
        "tags": tag or None,
        "depends_on": depends_on or None,
        "aliases": alias or None,
        "notify": notify,
        "notify_unusual": notify_unusual,
    }
    body = {key: value for key, value in given.items() if value is not None}
    for text in fields or ():
        key, sign, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key or key in body:
            fail(f"{text}: FIELD=VALUE is needed, each field once", 2)
        body[key] = _value(key, value)
    if not body:
        fail("what is to be set? For example: --every 5m, or silent_after=20m", 2)
    service, created = _changed(name, body)
    if as_json:
        _print_json(service)
        return
    say(f"{name}: {'registered' if created else 'changed'}")
    for warning in service.get("warnings", ()):
        say(warning, err=True)


def _value(key: str, text: str) -> Any:
    """As the API has it; it says itself what is wrong with one."""
    if not text:
        return [] if key in _LISTS else None
    if key in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    if key in _NUMBERS:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    if key.startswith("notify"):
        return _SWITCHES.get(text.lower(), text)
    return text


def _changed(name: str, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The service, and whether it is new."""
    from services.cli.client import RequestFailed, api

    try:
        return api("PATCH", _service(name), json=body).json(), False
    except RequestFailed as error:
        if error.status != 404:
            fail(str(error), 2 if error.status == 422 else 1)
    given = {key: value for key, value in body.items() if value is not None}
    return ask("POST", "/service", body={"name": name, **given}), True


# --- maintenance


@maintenance.callback(invoke_without_command=True)
def all_windows(context: typer.Context) -> None:
    """Maintenance windows: list, add, end."""
    if context.invoked_subcommand is None:
        list_windows()


@maintenance.command("list")
def list_windows(as_json: AsJson = False) -> None:
    """List the windows: what is now, what is next, what is over."""
    items = ask("GET", "/maintenance")["items"]
    if as_json:
        _print_json(items)
        return
    rows = (
        (_when(it), _scope(it["window"]), _repeats(it["window"]), it["window"]["title"], it["id"])
        for it in items
    )
    tables.show(("when", "of", "repeats", "title", "id"), rows, nothing="no maintenance windows")


def _when(view: dict[str, Any]) -> str:
    if view["active"]:
        return f"now, until {instant(view['ends_at'])}"
    return f"from {instant(view['starts_at'])} to {instant(view['ends_at'])}" if view["starts_at"] else "over"


def _scope(window: dict[str, Any]) -> str:
    return " ".join([*window["services"], *(f"#{tag}" for tag in window["tags"])])


def _repeats(window: dict[str, Any]) -> str:
    return f"{window['cron']} {window['time_zone']}, {window['duration']}" if window.get("cron") else "-"


@maintenance.command("add")
def add_window(
    service: Annotated[list[str] | None, typer.Option(help="Of this service.", autocompletion=_names)] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Of every service with this tag.")] = None,
    duration: Annotated[str | None, typer.Option("--for", help="How long, such as 2h.")] = None,
    starts: Annotated[
        str | None, typer.Option("--from", help="When it begins (ISO 8601); without: now.")
    ] = None,
    ends: Annotated[str | None, typer.Option("--to", help="When it ends, in place of --for.")] = None,
    cron: Annotated[str | None, typer.Option(help="Again and again, such as '0 3 * * sun'.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="Of --cron, such as Europe/Berlin.")] = None,
    title: Annotated[str, typer.Option()] = "",
    as_json: AsJson = False,
) -> None:
    """Add a window: `maintenance add --tag db --for 2h`. What changes while it lasts is not
    sent."""
    if not (service or tag):
        fail("of what? --service or --tag is needed", 2)
    body: dict[str, Any] = {"services": service or [], "tags": tag or [], "title": title}
    if cron:
        if starts or ends or not duration:
            fail("--cron goes with --for, and without --from and --to", 2)
        body |= {"cron": cron, "duration": duration} | ({"time_zone": time_zone} if time_zone else {})
    else:
        body |= _once(starts, ends, duration)
    view = ask("POST", "/maintenance", body=body)
    if as_json:
        _print_json(view)
    else:
        say(f"{view['id']}: {_when(view)}")


def _once(starts: str | None, ends: str | None, duration: str | None) -> dict[str, str]:
    from datetime import UTC, datetime

    from shared.contracts import durations

    if bool(ends) == bool(duration):
        fail("how long? One of --for and --to is needed", 2)
    try:
        begin = datetime.fromisoformat(starts) if starts else datetime.now(UTC)
        end = datetime.fromisoformat(ends) if ends else begin + durations.parse(duration or "")
    except ValueError as error:
        fail(str(error), 2)
    # Without an offset it is this machine's time.
    return {"starts_at": begin.astimezone(UTC).isoformat(), "ends_at": end.astimezone(UTC).isoformat()}


@maintenance.command("end")
def end_window(
    id: Annotated[str, typer.Argument(help="As `maintenance list` shows it.")], as_json: AsJson = False
) -> None:
    """End a window, or take it back."""
    ask("DELETE", f"/maintenance/{quote(id, safe='')}")
    if as_json:
        _print_json({"id": id})
    else:
        say(f"{id}: ended")
