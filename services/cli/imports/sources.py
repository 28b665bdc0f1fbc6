"""Reads what is imported, and changes nothing of it: files, folders, an API, a database, systemd."""

import json
import os
import pwd
import select
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from services.cli.imports.crontab import Crontab, Form, form_of
from services.cli.imports.draft import SourceError
from services.cli.imports.systemd import Timer, timers_of_list
from shared.contracts import zones
from shared.http.urls import without_secrets

MAX_BYTES = 256 * 1024 * 1024
"""Of one file, and of an answer."""
_PIPE_TIMEOUT = 2.0
"""Seconds until something comes over a pipe that may not be meant for us."""


class Unanswered(Exception):
    """The other system did not answer as it should; says why, without any secret."""


def machine_zone() -> str | None:
    """The time zone of this machine, as cron and systemd have it."""
    given = os.environ.get("TZ", "").lstrip(":")
    try:
        link = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
        found = given or link or Path("/etc/timezone").read_text().strip()
        return zones.zone(found).key
    except (OSError, ValueError):
        return None


def read_bytes(path: str) -> bytes:
    """A file, or standard input for `-`. Raises SourceError."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path}: it is larger than {MAX_BYTES // 2**20} MiB")
    return data


def read_text(path: str) -> str:
    """The same as text; what is not UTF-8 in it is replaced."""
    return read_bytes(path).decode("utf-8-sig", errors="replace")


# --- Healthchecks


def checks(url: str, key: str) -> Any:
    """The answer of Healthchecks' API, of the newest version that is there. Raises SourceError and
    Unanswered."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not without_secrets(url):
        raise SourceError(
            "the address of Healthchecks is http://HOST or https://HOST, with its path if it has one"
        )
    base = url.partition("?")[0].partition("#")[0].rstrip("/")
    before, found, _ = base.partition("/api/v")
    versions = [base[len(before) :].split("/")[2]] if found else ["v3", "v2", "v1"]
    for version in versions:
        answer = _asked(f"{before}/api/{version}/checks/", key)
        if answer is not None:
            return answer
    raise Unanswered(f"{without_secrets(url)} has no API of Healthchecks at /api/{versions[-1]}/checks/")


def _asked(url: str, key: str) -> Any:
    """None where there is nothing at this address."""
    import httpx

    at = without_secrets(url)
    try:
        answer = httpx.get(url, headers={"X-Api-Key": key}, timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        sent = not isinstance(error, httpx.LocalProtocolError | UnicodeError)
        raise Unanswered(
            f"{at}: {error or type(error).__name__}" if sent else f"{at}: it cannot be asked"
        ) from None
    if answer.status_code == 404:
        return None
    if answer.status_code in (401, 403):
        raise Unanswered(f"{at} does not accept the key ({answer.status_code})")
    if answer.is_redirect:
        leads = without_secrets(answer.headers.get("location", "")) or "elsewhere"
        raise Unanswered(f"{at} leads to {leads}; give that address")
    if not answer.is_success:
        raise Unanswered(f"{at} answers {answer.status_code}")
    try:
        return answer.json()
    except (ValueError, RecursionError):
        raise Unanswered(f"{at} answers what is no JSON, so it is no API of Healthchecks") from None


# --- Uptime Kuma


def kuma_dump(path: str) -> Any:
    """Its JSON export, or its database in the same form. Raises SourceError."""
    data = read_bytes(path)
    if data.startswith(b"SQLite format 3\0"):
        return _kuma_database(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise SourceError(f"{path}: it is neither JSON nor a database of SQLite") from None


def _kuma_database(path: str) -> Any:
    if path == "-":
        raise SourceError("a database is read from its file, not from standard input")
    # One that nothing writes to is opened as such: else SQLite would leave files beside it.
    wal = Path(path + "-wal")
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?{mode}", uri=True)) as database:
            database.row_factory = sqlite3.Row
            if not _columns(database, "monitor"):
                raise SourceError(f"{path}: it is no database of Uptime Kuma, as it has no table `monitor`")
            return {
                "monitorList": list(_monitors(database)),
                "maintenanceList": _rows(database, "maintenance", ("title",)),
                "statusPageList": _rows(database, "status_page", ("title",)),
                "notificationList": _rows(database, "notification", ("name",)),
            }
    except sqlite3.Error as error:
        raise SourceError(f"{path}: {error}") from None


_OF_MONITOR = [
    "id",
    "name",
    "type",
    "active",
    "interval",
    "retry_interval",
    "maxretries",
    "resend_interval",
    "upside_down",
    "push_token",
    "description",
    "parent",
]


def _monitors(database: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    tags: dict[Any, list[dict[str, Any]]] = {}
    names = {row["id"]: row["name"] for row in _rows(database, "tag", ("id", "name"))}
    for row in _rows(database, "monitor_tag", ("id", "monitor_id", "tag_id", "value")):
        found = {"name": names.get(row["tag_id"]), "value": row.get("value")}
        tags.setdefault(row["monitor_id"], []).append(found)
    told = {row["monitor_id"] for row in _rows(database, "monitor_notification", ("monitor_id",))}
    for row in _rows(database, "monitor", _OF_MONITOR):
        yield row | {"tags": tags.get(row["id"], []), "notification_id_list": row["id"] in told}


def _rows(database: sqlite3.Connection, table: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """The columns of these that the table has, in whichever version; nothing if there is no such table."""
    columns = [name for name in wanted if name in _columns(database, table)]
    if not columns:
        return []
    quoted = ", ".join(f'"{name}"' for name in columns)
    order = ' ORDER BY "id"' if "id" in _columns(database, table) else ""
    found = database.execute(f'SELECT {quoted} FROM "{table}"{order}')  # names of ours  # nosec B608
    return [dict(row) for row in found]


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}


# --- Gatus


def gatus_files(paths: Sequence[str]) -> list[tuple[str, Any]]:
    """Of each file, and of all *.yaml and *.yml in each folder, what stands there, every scalar as text.
    Raises SourceError."""
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    found = []
    for path in _files(paths, (".yaml", ".yml"), deep=True):
        try:
            content = yaml.load(read_bytes(path), Loader=loader)  # makes texts alone  # nosec B506
        except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
            raise SourceError(f"{path}{where}: it is no YAML") from None
        found.append((path, content))
    return found


def _files(paths: Iterable[str], endings: tuple[str, ...], *, deep: bool = False) -> Iterator[str]:
    """The paths themselves, and of folders the files in them with these endings, in order."""
    for path in paths:
        folder = Path(path)
        if path == "-" or not folder.is_dir():
            yield path
            continue
        inside = sorted(each for each in folder.glob("**/*" if deep else "*") if each.is_file())
        found = [
            str(each) for each in inside if each.name.endswith(endings) and not each.name.startswith(".")
        ]
        if not found:
            raise SourceError(f"{path}: there is no file with {' or '.join(endings)} in it")
        yield from found


# --- cron


def crontabs(paths: Sequence[str], form: Form | None) -> list[Crontab]:
    """Of each file, and of those in each folder that cron would read (without a dot). Raises SourceError."""
    users = [user.pw_name for user in pwd.getpwall()]
    found = []
    for path in paths:
        folder = Path(path)
        files = [path]
        if path != "-" and folder.is_dir():
            inside = sorted(each for each in folder.iterdir() if each.is_file() and "." not in each.name)
            files = [str(each) for each in inside if not each.name.endswith("~")]
            if not files:
                raise SourceError(f"{path}: there is no crontab in it")
        for name in files:
            text = read_text(name)
            guess = form_of(os.path.abspath(name) if name != "-" else name, text, users)
            found.append(Crontab(name, text, form or guess))
    return found


# --- systemd

LOAD_PATHS = {
    "system": "/etc/systemd/system /run/systemd/system /run/systemd/transient /run/systemd/generator "
    "/usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system",
    "user": "~/.config/systemd/user /etc/systemd/user ~/.local/share/systemd/user /run/systemd/user "
    "/usr/local/lib/systemd/user /usr/lib/systemd/user",
}


def timers(paths: Sequence[str], manager: str) -> list[Timer]:
    """Those of a list (a file, a pipe or what systemd says now), each with its unit file from the folders
    that are given or from systemd's; without a list, those whose unit files are given. Raises SourceError,
    Unanswered."""
    folders = [path for path in paths if path != "-" and Path(path).is_dir()]
    units = [path for path in paths if path.endswith(".timer") and path not in folders]
    lists = [path for path in paths if path not in (*folders, *units)]
    if not paths:
        piped = _piped()
        lists, answer = ["standard input"], piped if piped.strip() else _list_of_systemd(manager)
    else:
        answer = b"".join(read_bytes(path) for path in lists[:1])
    search = [*folders, *(os.path.expanduser(each) for each in LOAD_PATHS[manager].split())]
    if lists:
        try:
            listed = timers_of_list(json.loads(answer))
        except (ValueError, RecursionError):
            raise SourceError(f"{lists[0]}: it is not what `systemctl list-timers -o json` prints") from None
        return [Timer(name, _unit_texts(name, search), activates) for name, activates in listed.items()]
    found = {Path(unit).name: [str(Path(unit).parent)] for unit in units}
    for folder in folders:
        names = {each.name for glob in ("*.timer", "*.wants/*.timer") for each in Path(folder).glob(glob)}
        found |= {name: [folder] for name in names if not _has_instances(name, names)}
    if not found:
        raise SourceError(f"{paths[0]}: there is no timer in it")
    return [Timer(name, _unit_texts(name, where)) for name, where in found.items()]


def _has_instances(name: str, names: Iterable[str]) -> bool:
    before, at, _ = name.rpartition("@.timer")
    return bool(at) and any(each.startswith(f"{before}@") and each != name for each in names)


def _unit_texts(name: str, folders: Iterable[str]) -> list[str]:
    """Its unit file, of an instance that of its template, and what is dropped in from all folders by name."""
    before, at, _ = name.removesuffix(".timer").partition("@")
    names = [name, f"{before}@.timer"] if at else [name]
    folders = list(folders)
    unit = next(
        (path for each in names for folder in folders if (path := Path(folder, each)).is_file()), None
    )
    if unit is None:
        return []
    drops = {
        path.name: path
        for folder in reversed(folders)
        for each in reversed(names)
        for path in Path(folder, f"{each}.d").glob("*.conf")
    }
    return [read_text(str(path)) for path in (unit, *(drops[key] for key in sorted(drops)))]


def _list_of_systemd(manager: str) -> bytes:
    command = ["systemctl", f"--{manager}", "list-timers", "--all", "--no-pager", "--output=json"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30)  # a fixed command  # nosec B603
    except FileNotFoundError:
        raise Unanswered(
            "there is no systemctl here; give unit files, or what `systemctl list-timers -o json` prints"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"systemctl does not answer: {type(error).__name__}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Unanswered(f"systemctl: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _piped() -> bytes:
    """What comes over standard input where that is a pipe or a file; empty where nobody sends anything."""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return b""
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        ready, _, _ = select.select([sys.stdin], [], [], _PIPE_TIMEOUT)
        return read_bytes("-") if ready else b""
    return read_bytes("-") if stat.S_ISREG(kind) else b""
