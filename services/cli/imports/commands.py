"""`registry import …`: prints the `registry.yaml` that other systems' checks come to."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from services.cli.imports.draft import Draft

commands = typer.Typer(
    no_args_is_help=True,
    help="Print the registry.yaml that the checks of another system come to. What cannot be carried over "
    "stands in it as a comment, and on standard error. Nothing is changed, there or here.",
)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the configuration and what is left over as JSON.")
]
Probes = Annotated[
    bool,
    typer.Option(
        "--probes", help="Make services of what it asks by itself, too: something has to report for them."
    ),
]
Prefix = Annotated[str, typer.Option(help="Put before each name, such as 'web1.'.")]
Zone = Annotated[
    str | None,
    typer.Option(help="The zone of the machine's clock, if that is not this machine's.", metavar="ZONE"),
]
_BEAT = (
    "`beat` is one file without dependencies that runs a command and reports it: curl -fsS "
    "$REGISTRY_URL/exec.py -o /usr/local/bin/beat && chmod +x /usr/local/bin/beat; it needs REGISTRY_URL and "
    "REGISTRY_TOKEN. `registry exec` is the same."
)


@commands.command()
def healthchecks(
    url: Annotated[str, typer.Argument(metavar="URL", help="Such as https://healthchecks.io, or your own.")],
    key: Annotated[
        str,
        typer.Option(
            envvar="HEALTHCHECKS_API_KEY",
            show_default=False,
            help="An API key of the project that may write: one that may only read is not told the ids.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """The checks of a project of Healthchecks, over its API. --key - reads the key from standard input."""
    from services.cli.imports import healthchecks as system
    from services.cli.imports import sources

    with _told():
        given = sys.stdin.readline().strip() if key == "-" else key.strip()
        answer = sources.checks(url, system.check_key(given))
        _print(system.convert(answer, _now()), "healthchecks", as_json)


@commands.command("uptime-kuma")
def uptime_kuma(
    dump: Annotated[str, typer.Argument(metavar="DUMP", help="Its JSON export, or its database kuma.db.")],
    probes: Probes = False,
    as_json: AsJson = False,
) -> None:
    """The push monitors of Uptime Kuma (1 or 2)."""
    from services.cli.imports import sources
    from services.cli.imports import uptime_kuma as system

    with _told():
        _print(system.convert(sources.kuma_dump(dump), _now(), probes=probes), "uptime-kuma", as_json)


@commands.command()
def gatus(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Its configuration: files, or a folder.")
    ],
    probes: Probes = False,
    as_json: AsJson = False,
) -> None:
    """The external endpoints of Gatus."""
    from services.cli.imports import gatus as system
    from services.cli.imports import sources

    with _told():
        _print(system.convert(sources.gatus_files(files), _now(), probes=probes), "gatus", as_json)


@commands.command()
def crontab(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…", help="Crontabs, a folder such as /etc/cron.d, or - for `crontab -l |`."
        ),
    ],
    form: Annotated[
        Literal["user", "system"] | None,
        typer.Option(
            help="Whether lines have a user before the command, where that is not seen by itself.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="They are a user's: --form user.")] = False,
    system: Annotated[bool, typer.Option("--system", help="They name users: --form system.")] = False,
    time_zone: Zone = None,
    prefix: Prefix = "",
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Print the crontab itself, in which each job reports, instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The jobs of crontabs."""
    from services.cli.imports import crontab as jobs
    from services.cli.imports import sources

    with _told():
        wanted: Literal["user", "system"] | None = "system" if system else "user" if user else form
        tables = sources.crontabs(files, wanted)
        zone = _zone(time_zone)
        if rewrite:
            for name, text in jobs.rewritten(tables, _now(), prefix):
                typer.echo((f"# {name}\n" if len(tables) > 1 else "") + text, nl=False)
            return
        _print(jobs.convert(tables, _now(), zone, prefix), "crontab", as_json, (_BEAT,))


@commands.command()
def systemd(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH…]",
            help="Folders of unit files, timers, or a file with what `systemctl list-timers -o json` prints "
            "(- for standard input). Without: what systemd says.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="Those of the user's own systemd.")] = False,
    time_zone: Zone = None,
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """The timers of systemd."""
    from services.cli.imports import sources
    from services.cli.imports import systemd as units

    with _told():
        timers = sources.timers(paths or (), "user" if user else "system")
        _print(units.convert(timers, _now(), _zone(time_zone), prefix), "systemd", as_json, (_BEAT,))


def _now() -> datetime:
    return datetime.now(UTC)


def _zone(given: str | None) -> str | None:
    from services.cli.imports.draft import SourceError
    from services.cli.imports.sources import machine_zone
    from shared.contracts import zones

    try:
        return zones.zone(given).key if given else machine_zone()
    except ValueError as error:
        raise SourceError(f"--time-zone {error}") from None


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be read ends with code 2; who does not answer, with 1."""
    from services.cli.imports.draft import SourceError
    from services.cli.imports.sources import Unanswered
    from services.cli.tables import say

    try:
        yield
    except (SourceError, Unanswered) as error:
        say(str(error), err=True)
        raise typer.Exit(2 if isinstance(error, SourceError) else 1) from None


def _print(draft: "Draft", what: str, as_json: bool, intro: tuple[str, ...] = ()) -> None:
    from services.cli.imports.draft import as_configuration
    from services.cli.imports.printing import as_yaml, leftover_lines
    from services.cli.tables import say

    if as_json:
        typer.echo(json.dumps({"configuration": as_configuration(draft), "left_over": draft.leftovers}))
    else:
        typer.echo(as_yaml(draft, f"registry import {what}", intro), nl=False)
    if draft.leftovers:
        say("not carried over:", err=True)
    for line in leftover_lines(draft):
        say(f"- {line}", err=True)
