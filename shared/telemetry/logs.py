"""Key/value log lines, JSON unless on a terminal; also of libraries, warnings, and uncaught exceptions."""

import logging
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

from shared.settings import wanted_log_format
from shared.telemetry.visible import visible, visible_lines

INDENT = " " * 4


def begin(service: str) -> None:
    """To be called before the settings are read: if JSON is wanted, errors in the settings are JSON too."""
    if wanted_log_format() == "json":
        configure(service, "info", "json")


def configure(service: str, level: str, fmt: str) -> None:
    """Set up structlog for this process, and what libraries log from WARNING on."""
    numeric = getattr(logging, level.upper())
    console = fmt == "console" or (not fmt and sys.stderr.isatty())

    def named(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line.setdefault("service", service)
        return line

    first: list[Any] = [
        named,  # not by a context: a thread has none
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: list[Any] = [structlog.processors.JSONRenderer()]
    if console:
        last = [_made_harmless, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *first],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # httpx logs whole URLs at INFO, and a bot token is part of a URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.excepthook = _uncaught

    def hook(uncaught: Any) -> None:
        _uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)

    sys.unraisablehook = threading.excepthook = hook


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        structlog.get_logger().warning("interrupted")
    else:
        found = (kind, error or kind(), trace)
        structlog.get_logger().critical("an exception that nobody caught", exc_info=found)


def _made_harmless(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: what others wrote cannot control it, and cannot look like a line of ours."""
    shown: dict[str, Any] = {}
    for key, value in line.items():
        if key in ("event", "exception"):
            value = visible_lines(str(value), INDENT if key == "event" else "")
        elif isinstance(value, str) and (text := visible(value)) != value:
            value = _Quoted(text)
        shown[visible(key)] = value
    return shown


class _Quoted:
    """A text that the console renderer shows in quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"'{self._text}'"
