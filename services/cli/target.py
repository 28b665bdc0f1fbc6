"""Where the registry is, and the token for it: REGISTRY_URL and REGISTRY_TOKEN, or, in the folder of a
server, the variables of that server. Without libraries, for `beat` and `exec` start with it."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from shared.http.urls import PUBLIC, is_public, near

PREFIX = "REGISTRY_"
TOKEN = "printable characters"  # what is accepted, no token  # nosec B105


class Target(NamedTuple):
    """The base URLs without a slash at the end, and the token for each; empty: none."""

    api: str
    ingest: str
    api_token: str = ""
    ingest_token: str = ""


class WrongVariable(ValueError):
    """A variable that is not accepted; says which, and what is."""


def variables() -> dict[str, str]:
    """All of ours, without the prefix, in upper case: those of `.env` in this folder, and over them those of
    the environment. Raises WrongVariable."""
    given: dict[str, str | None] = {}
    if Path(".env").is_file():
        from dotenv import dotenv_values

        try:
            given |= dotenv_values(".env", encoding="utf-8")
        except OSError as error:
            raise WrongVariable(f"the file .env cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise WrongVariable("the file .env cannot be read: it is not UTF-8") from None
    return {
        name.upper().removeprefix(PREFIX): value
        for name, value in (given | os.environ).items()
        if name.upper().startswith(PREFIX) and value is not None
    }


def find_target() -> Target:
    """Raises WrongVariable."""
    known = variables()
    token = _token("TOKEN", known)
    if url := known.get("URL", "").strip():
        if not is_public(url):
            raise WrongVariable(f"{PREFIX}URL: its value is not accepted, and not shown; accepted: {PUBLIC}")
        url = url.rstrip("/")
        return Target(url, url, token, token)
    host = near(known.get("HOST", "127.0.0.1"))
    return Target(
        f"http://{host}:{_port('API_PORT', known, 8002)}",
        f"http://{host}:{_port('INGEST_PORT', known, 8001)}",
        token or _token("API_TOKEN", known) or _token("READ_TOKEN", known),
        token or _token("INGEST_TOKEN", known),
    )


def _port(name: str, known: dict[str, str], default: int) -> int:
    given = known.get(name, str(default))
    if not re.fullmatch(r"\s*[0-9]{1,5}\s*", given) or not 1 <= int(given) <= 65535:
        raise WrongVariable(f"{PREFIX}{name}={given!r} is not accepted; accepted: 1 to 65535")
    return int(given)


def _token(name: str, known: dict[str, str]) -> str:
    """The first of them, where there are several."""
    token = next(filter(None, map(str.strip, known.get(name, "").split(","))), "")
    if not (token.isprintable() and token.isascii()):
        raise WrongVariable(f"{PREFIX}{name}: its value is not accepted, and not shown; accepted: {TOKEN}")
    return token
