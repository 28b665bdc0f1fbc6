"""Key/value log lines: readable on a terminal, JSON elsewhere."""

import logging
import sys

import structlog


def configure(service: str, level: str, fmt: str) -> None:
    """Set up structlog for this process, and quiet the libraries' own logging."""
    numeric = getattr(logging, level.upper())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # httpx logs whole URLs at INFO, and a bot token is part of a URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    console = fmt == "console" or (not fmt and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
            if console
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(service=service)
