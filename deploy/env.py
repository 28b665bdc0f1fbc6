"""Writes `.env` for Compose: `.env.example`, with a fresh secret for each that docker-compose.yml needs.

`make env`, or `python3 deploy/env.py`. An address behind it becomes REGISTRY_PUBLIC_URL. Exit code 1 if
there is a `.env` already, which stays as it is.
"""

import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def filled(example: str, values: "dict[str, str]") -> str:
    """`.env.example` with these variables set, each in its own line."""
    for name, value in values.items():
        lines = re.findall(rf"^#?{name}=.*$", example, re.MULTILINE)
        if len(lines) != 1:
            raise SystemExit(f".env.example has {len(lines)} lines for {name}, not one.")
        example = example.replace(f"\n{lines[0]}\n", f"\n{name}={value}\n")
    return example


def main(public_url: str = "") -> None:
    needed = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text("utf-8")))
    values = {name: secrets.token_hex(24) for name in sorted(needed)}
    if public_url:
        values["REGISTRY_PUBLIC_URL"] = public_url
    text = filled((ROOT / ".env.example").read_text("utf-8"), values)
    try:
        file = os.open(ROOT / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SystemExit("There is a .env already, and it stays as it is.") from None
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    sys.stdout.write(
        f".env has {len(needed)} fresh secrets, for your eyes only. Now: docker compose up --build --detach\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
