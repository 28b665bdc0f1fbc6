"""`registry exec`: runs a command, and reports its start and its end."""

import signal
import subprocess
import time

from pydantic import SecretStr

from services.cli.client import RequestFailed, ask, warn


def run_reported(url: str, tokens: tuple[SecretStr, ...], command: list[str]) -> int:
    """Run a command for the service of this URL. Its exit code, also if the registry cannot be reached."""
    warned = _report(f"{url}/start", tokens, tries=1)
    if warned:
        warn(warned)
    code, message = _run(command)
    why = _report(f"{url}/{code}", tokens, tries=3, message=message)
    if why not in ("", warned):
        warn(why)
    return code


def _run(command: list[str]) -> tuple[int, str | None]:
    """Run it with our own input and output, passing on what we are told. Its exit code, 128 + n if signal n
    ended it, and why it could not be run."""
    try:
        process = subprocess.Popen(command)  # what our own user gave  # nosec B603
    except OSError as error:
        message = f"{command[0]}: {error.strerror}"
        warn(message)
        return (127 if isinstance(error, FileNotFoundError) else 126), message
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well
    code = process.wait()
    return (128 - code, f"ended by signal {-code}") if code < 0 else (code, None)


def _report(url: str, tokens: tuple[SecretStr, ...], *, tries: int, message: str | None = None) -> str:
    """Tell the registry; a run that worked must not fail because that did not. Why it was not told; empty if
    it was."""
    why = ""
    for left in reversed(range(tries)):
        try:
            ask("POST", url, tokens, json={"message": message} if message else None)
            return ""
        except RequestFailed as error:
            why = f"the registry was not told: {error}"
            if left:
                time.sleep(1)
    return why
