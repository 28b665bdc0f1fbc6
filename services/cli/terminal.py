"""What the command line prints."""

import typer

from shared.telemetry.visible import visible


def say(line: str, *, err: bool = False) -> None:
    """Print one line, in which nothing that others wrote acts on the terminal."""
    typer.echo(visible(line), err=err)


def warn(message: str) -> None:
    say(message, err=True)
