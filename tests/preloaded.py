"""What a fork has in memory already: whatever takes long to import, and nothing of the project's own.

Frozen, so that no process that looks for garbage has to copy all of it.
"""

import gc
from importlib import import_module

for _library in (
    *("cronsim", "fastapi.staticfiles", "faststream.nats", "h11", "httpcore", "httpx", "itsdangerous"),
    *("jinja2", "motor.motor_asyncio", "nacl.signing", "nats", "prometheus_client", "pydantic.v1"),
    *("pydantic_settings", "sortedcontainers", "structlog", "typer", "uvicorn"),
    *("uvicorn.protocols.http.httptools_impl", "uvloop"),
):
    import_module(_library)
gc.collect()
gc.freeze()
