"""`registry beat` and `registry exec`: without the other commands' libraries, for jobs wait for them."""

import json
import os
import sys
from typing import NoReturn

from services.cli.target import WrongVariable, find_target
from shared import exec as wrapper

COMMANDS = ("beat", "exec")
ANSWER_TIMEOUT = 15.0
"""Seconds that `beat` waits: nothing else waits for it."""


def main(command: str, arguments: list[str]) -> NoReturn:
    """Run one of COMMANDS, and end the process with its exit code."""
    try:
        code = (
            beat(arguments)
            if command == "beat"
            else wrapper.main(arguments, "registry exec", registry_if_any)
        )
    except WrongVariable as error:
        _say_error(str(error))
        code = 2
    sys.stdout.flush()
    os._exit(code)  # whatever is still tried in a thread


def registry(url: str) -> wrapper.Registry:
    """Where heartbeats go. Raises WrongVariable."""
    if url:
        os.environ["REGISTRY_URL"] = url
    target = find_target()
    return wrapper.Registry(target.ingest, target.ingest_token)


def registry_if_any(url: str) -> wrapper.Registry:
    """The same for a command that is run whatever the variables are."""
    try:
        return registry(url)
    except WrongVariable as error:
        return wrapper.Registry("", "", str(error))


def beat(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser("registry beat", description="Send one heartbeat.", allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="the service's name")
    parser.add_argument("--message", help="kept with the heartbeat")
    parser.add_argument("--every", help="the interval it beats at, such as 5m")
    parser.add_argument("--schedule", help="when it is due, such as '0 3 * * *', in place of --every")
    parser.add_argument("--time-zone", help="of the schedule, such as Europe/Berlin")
    parser.add_argument("--fail", action="store_true", help="report a failure")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--url", default="", help="the registry's address, in place of REGISTRY_URL")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    if not wrapper.valid_name(given.name):
        _say_error(f"{given.name!r} is no service's name: {wrapper.NAME_RULE}")
        return 2
    fields = {key: getattr(given, key) for key in ("message", "every", "schedule", "time_zone")}
    fields = {key: value for key, value in fields.items() if value is not None}
    path = f"/heartbeat/{given.name}{'/fail' if given.fail else ''}"
    try:
        answer = registry(given.url).post(path, fields, timeout=ANSWER_TIMEOUT)
    except wrapper.NotTold as error:
        _say_error(str(error))
        return 1
    for warning in answer.get("warnings", ()):
        _say_error(str(warning))
    sys.stdout.write(f"{json.dumps(answer)}\n" if given.json else f"{given.name}: stored\n")
    return 0


def _say_error(text: str) -> None:
    from shared.telemetry.visible import visible

    sys.stderr.write(visible(text) + "\n")
