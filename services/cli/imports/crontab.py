"""Crontabs as services, and crontabs whose jobs report. Pure.

A line is `minute hour day month weekday [user] command`, `@daily [user] command`, or a variable for the lines
below it. In a command `%` ends a line and begins its input, and `\\%` is a percent sign.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

from services.cli.imports.draft import NO_ZONE, Draft
from services.cli.imports.job_names import job_name, words_of
from shared.contracts.events import valid_name

Form = Literal["user", "system"]
WRAPPER = "/usr/local/bin/beat"
_USERS = words_of(
    "root daemon bin sys man lp mail news www-data backup list irc nobody postgres mysql redis git ubuntu "
    "debian pi ec2-user nginx apache http munin logcheck smmsp amavis clamav vmail postfix jenkins tomcat "
    "gitlab-runner nextcloud"
)
_VARIABLE = re.compile(
    r"""\s*(?:([A-Za-z_][A-Za-z0-9_]*)|"([^"]*)"|'([^']*)')\s*=\s*(.*)""", re.ASCII | re.DOTALL
)
_FIELD = r"[0-9A-Za-z*,/~?#-]+"
_JOB = re.compile(
    rf"\s*(-?(?:@[A-Za-z_]+|(?=[0-9*~?]){_FIELD}(?:\s+{_FIELD}){{4}}))\s+(.*)", re.ASCII | re.DOTALL
)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\$?")
_BEHIND_USER = re.compile(r"(\S+)\s+(.*)", re.ASCII | re.DOTALL)
_HEADINGS = re.compile(r"\bm\s+h\s+dom\s+mon\s+dow\b|\bmin(ute)?\s+hour\s+day\b", re.IGNORECASE)
_DRAWN = re.compile(r"\W*|\|.*|\.-.*")
_PING = re.compile(
    r"https?://[^\s'\"]*?/(?:ping/)?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?![0-9a-fA-F-])"
)
_PUSH = re.compile(r"https?://[^\s'\"]*?/api/push/([A-Za-z0-9_-]{8,64})(?![A-Za-z0-9_-])")
_HEARTBEAT = re.compile(r"/heartbeat/([A-Za-z0-9_.-]+)|\b(?:registry\s+exec|beat)\s+([A-Za-z0-9_.-]+)\s+--")
_BUILT_IN = words_of(
    ". : [ cd exec export if for while until case source test true false ulimit umask unset set"
)
_SIMPLE = re.compile(r"[\w@%+=:,./\\~ -]*")

AT_BOOT = "jobs of @reboot (a start of the machine is no time at which something is due)"
_TOLD = "who gets mail, MAILTO (channels and routes decide who hears of what)"
_CLOCK = "TZ, which is the clock of commands and not that of cron"
_UNREAD = "lines that are neither a job nor a variable"


@dataclass(frozen=True)
class Job:
    """`command`: as it stands in the crontab, with its `%`. `before`: all of the line before that."""

    where: str
    schedule: str
    before: str
    command: str
    description: str
    shell: str
    time_zone: str | None


class Crontab(NamedTuple):
    name: str
    text: str
    form: Form


def form_of(name: str, text: str, users: Iterable[str] = ()) -> Form:
    """Whether each job of it names a user: where it stands in the folders of such, and else where all have
    such a word and half of these are known `users`."""
    if re.search(r"(^|/)etc/(cron\.d/[^/]+|crontab)$", name):
        return "system"
    known = _USERS.union(users)
    seconds = []
    for line in text.split("\n"):
        if not line.lstrip().startswith("#") and not _VARIABLE.match(line) and (job := _JOB.match(line)):
            user = _BEHIND_USER.match(job[2])
            seconds.append(user[1] if user and _USER.fullmatch(user[1]) else "")
    is_like = bool(seconds) and all(seconds) and 2 * sum(each in known for each in seconds) >= len(seconds)
    return "system" if is_like else "user"


def convert(crontabs: Sequence[Crontab], now: datetime, time_zone: str | None, prefix: str = "") -> Draft:
    """`time_zone`: that of the machine, if it is known."""
    draft, _ = _converted(crontabs, now, time_zone, prefix)
    return draft


def rewritten(
    crontabs: Sequence[Crontab], now: datetime, prefix: str = "", wrapper: str = WRAPPER
) -> Iterator[tuple[str, str]]:
    """Each crontab by its name, with the same lines but that its jobs report by `wrapper NAME -- …`."""
    _, names = _converted(crontabs, now, None, prefix)
    for table in crontabs:
        lines = table.text.split("\n")
        for number, job in _jobs(table, Draft(now), several=len(crontabs) > 1):
            if name := names.get(job.where):
                end = lines[number][len(lines[number].rstrip()) :]
                lines[number] = f"{job.before}{wrapper} {name} -- {_as_arguments(job)}{end}"
        yield table.name, "\n".join(lines)


def _converted(
    crontabs: Sequence[Crontab], now: datetime, time_zone: str | None, prefix: str
) -> tuple[Draft, dict[str, str]]:
    """And the service of each job that does not report by itself, by where that stands."""
    draft, names = Draft(now), dict[str, str]()
    for table in crontabs:
        for _, job in _jobs(table, draft, several=len(crontabs) > 1):
            if job.schedule.lower() == "@reboot":
                draft.left(AT_BOOT, job.where)
                continue
            plain = _without_percent(job.command)
            keys = [found[1] for found in (_PING.search(plain), _PUSH.search(plain)) if found]
            found = _HEARTBEAT.search(plain)
            own = (found[1] or found[2]) if found else ""
            if own and draft.has(own):
                draft.left(
                    "further lines of a service (add their schedules to its own)", f"{job.where} ({own})"
                )
                continue
            reports = bool(keys or found)
            added = draft.add(
                own if valid_name(own) else prefix + job_name(_PUSH.sub("", _PING.sub("", plain))),
                comment=partial(_comment, job, reports),
                description=job.description,
                schedule=job.schedule,
                time_zone=job.time_zone or time_zone,
                aliases=keys,
            )
            if not reports:
                names[job.where] = added
            if not (job.time_zone or time_zone):
                draft.left(NO_ZONE)
    return draft, names


def _comment(job: Job, reports: bool, name: str) -> str:
    if reports:
        return f"{job.where} reports by itself: the address in it is to be this registry's"
    if _is_simple(job.command):
        return f"{job.where}: put `beat {name} --` before its command"
    return f"{job.where}: beat {name} -- {job.shell} -c '…its command…'"


def _jobs(table: Crontab, draft: Draft, *, several: bool) -> Iterator[tuple[int, Job]]:
    """The jobs with the index of their lines; what else stands there and means something is left over."""
    zone, shell, above = None, "/bin/sh", list[str]()
    for index, line in enumerate(table.text.split("\n")):
        where = f"{table.name}:{index + 1}" if several else f"line {index + 1}"
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("#").strip())
            continue
        found, description, above = _JOB.match(line), _description(above), []
        if not text:
            continue
        if variable := _VARIABLE.match(line):
            name, value = variable[1] or variable[2] or variable[3] or "", _unquoted(variable[4])
            if name == "CRON_TZ":
                zone = value or None
            elif name == "SHELL" and value:
                shell = value
            elif name == "TZ":
                draft.left(_CLOCK, where)
            elif name == "MAILTO" and value:
                draft.left(_TOLD, value)
            continue
        command = found and (_BEHIND_USER.match(found[2]) if table.form == "system" else found)
        if not found or not command or not command[2].strip():
            draft.left(_UNREAD, where)
            continue
        before = line[: len(line) - len(command[2])]
        schedule = " ".join(found[1].lstrip("-").split())
        yield index, Job(where, schedule, before, command[2].rstrip(), description, shell, zone)


def _description(above: list[str]) -> str:
    """The comment right above a job, without headings, drawings and jobs that are switched off."""
    start = max((number for number, text in enumerate(above, 1) if _HEADINGS.search(text)), default=0)
    return "\n".join(text for text in above[start:] if not _DRAWN.fullmatch(text) and not _JOB.match(text))


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _without_percent(command: str) -> str:
    return _split(command)[0].replace("\\%", "%")


def _split(command: str) -> tuple[str, str]:
    """Up to the first `%` that has no backslash before it, and from there on."""
    found = re.search(r"(?<!\\)%", command)
    return (command[: found.start()], command[found.start() :]) if found else (command, "")


def _is_simple(command: str) -> bool:
    """Whether it is one command, and nothing that a shell has to run."""
    command, _ = _split(command)
    words = command.split() or ["."]
    return bool(_SIMPLE.fullmatch(command)) and words[0] not in _BUILT_IN and "=" not in words[0]


def _as_arguments(job: Job) -> str:
    command, given = _split(job.command)
    return job.command if _is_simple(job.command) else f"{job.shell} -c {shlex.quote(command.strip())}{given}"
