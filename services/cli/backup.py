"""Copies of the record: all streams in one file, taken from a live broker, and put back into an empty one.

The file is a ZIP archive: per stream the snapshot that the broker makes of it, with sequences and times, and
at the end a manifest with their checksums.
"""

import hashlib
import json
import os
import sys
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from services.cli.broker import connect_once
from services.cli.tables import say
from shared.http.urls import without_secrets
from shared.messaging import streams
from shared.settings import Settings

FORMAT = 1
MANIFEST = "manifest.json"
NEEDED = (streams.HEARTBEATS, streams.SERVICES)
ORDER = (
    f"KV_{streams.MONITOR_BUCKET}",
    *NEEDED,
    streams.RUNS,
    f"KV_{streams.NOTIFIER_BUCKET}",
    f"KV_{streams.MAINTENANCE_BUCKET}",
    f"KV_{streams.API_BUCKET}",
    streams.ASIDE,
)
"""The order in which they are copied, while all goes on. The monitor's snapshot must not be ahead of the
streams. An event may be ahead of heartbeats: it says which it knows. So may a fact about a run: it is not
recorded again. Cursors come after both, or what was sent in between would be sent again; if they are ahead,
the notifier sets them back to the end."""
CHUNK = 256 * 1024
PUT_CHUNK = 16 * 1024
"""Bytes sent at once to a broker that restores: it gives up if they keep it busy for 5 s."""
TOO_SLOW = "closed pipe"
"""Part of its answer then."""
STEP_TIMEOUT = 30.0
"""Seconds that the broker may take for one step."""
CREATION_TIMEOUT = 600.0
"""Seconds that the broker may take to create a stream from what it was sent."""
SERVICES = "ingest, monitor, notifier and api"


class BackupError(Exception):
    """A backup or restore that was not done: why, and what to do."""


@dataclass(frozen=True)
class StreamCopy:
    """One stream in the file. `created`: when the stream was created that it is a copy of."""

    name: str
    messages: int
    last_seq: int
    created: str
    sha256: str
    config: dict[str, Any]
    state: dict[str, Any]


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Client]:
    url = without_secrets(settings.nats_url[0])
    try:
        client = await connect_once(settings)
    except (NatsError, OSError, TimeoutError) as error:
        raise BackupError(f"the broker at {url} cannot be reached: {error!r}") from None
    try:
        yield client
    except (NatsError, OSError, TimeoutError) as error:
        raise BackupError(f"the broker at {url} did not do it: {str(error) or repr(error)}") from None
    finally:
        with suppress(NatsError, OSError):
            await client.close()


async def _request(client: Client, subject: str, payload: bytes = b"", timeout: float = STEP_TIMEOUT) -> Any:
    return json.loads((await client.request(subject, payload, timeout=timeout)).data)


async def _ask(client: Client, subject: str, question: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = await _request(client, subject, json.dumps(question).encode())
    if error := answer.get("error"):
        raise BackupError(f"{subject.removeprefix('$JS.API.')}: {error.get('description', error)}")
    return answer


# --- backup


async def backup(settings: Settings, file: Path | None) -> list[StreamCopy]:
    """Write all streams to `file`, or to standard output. It appears under its name when it is whole."""
    async with _connected(settings) as client:
        if file is None:
            return await _write(client, sys.stdout.buffer)
        partial = file.with_name(f"{file.name}.partial")
        try:
            with os.fdopen(os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as out:
                copied = await _write(client, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return copied


async def _write(client: Client, out: IO[bytes]) -> list[StreamCopy]:
    copied: list[StreamCopy] = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ORDER:
            if created := await _created(client, name):
                copied.append(await _copy(client, archive, name, created))
            elif name in NEEDED:
                raise BackupError(f"there is no stream {name} to copy")
        manifest = {"format": FORMAT, "streams": [asdict(copy) for copy in copied]}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    return copied


async def _created(client: Client, name: str) -> str:
    """When a stream was created, as the broker writes it; empty if there is none."""
    answer = await _request(client, f"$JS.API.STREAM.INFO.{name}")
    if error := answer.get("error"):
        if error.get("code") == 404:
            return ""
        raise BackupError(f"{name}: {error.get('description', error)}")
    return str(answer["created"])


async def _copy(client: Client, archive: zipfile.ZipFile, name: str, created: str) -> StreamCopy:
    inbox, digest = client.new_inbox(), hashlib.sha256()
    sub = await client.subscribe(inbox)
    question = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK}
    answer = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{name}", question)
    with archive.open(name, "w", force_zip64=True) as member:
        while chunk := (message := await sub.next_msg(STEP_TIMEOUT)).data:
            digest.update(chunk)
            member.write(chunk)
            if message.reply:  # the broker sends so much ahead, and no more
                await message.respond(b"")
    await sub.unsubscribe()
    status = (message.headers or {}).get("Status", "204")
    if status != "204":
        description = (message.headers or {}).get("Description", "")
        raise BackupError(f"the broker stopped in the middle of {name}: {status} {description}")
    config, state = answer["config"], answer["state"]
    return StreamCopy(name, state["messages"], state["last_seq"], created, digest.hexdigest(), config, state)


# --- restore


async def restore(settings: Settings, file: Path, *, replace: bool) -> list[StreamCopy]:
    """Put the streams of `file` back. Nothing is changed if the file is damaged, if services run, or if there
    are such streams already, unless `replace` says that they are to be removed."""
    with _opened(file) as archive:
        copied = check(archive)
        async with _connected(settings) as client:
            there = [name for name in ORDER if await _created(client, name)]
            if reader := [name for name in there if await _is_read(client, name)]:
                raise BackupError(
                    f"{reader[0]} is being read: stop {SERVICES} first. (Who was killed just now is "
                    "forgotten within half a minute.)"
                )
            if there and not replace:
                raise BackupError(
                    f"the broker has {', '.join(there)} already; --replace removes them for good"
                )
            for name in there:
                await _ask(client, f"$JS.API.STREAM.DELETE.{name}", {})
            created = {}
            for copy in copied:
                created[copy.name] = await _put(client, archive, copy, settings.nats_replicas)
            try:
                await _adopt(client, {copy.name: copy.created for copy in copied}, created)
            except (NatsError, TimeoutError) as error:
                say(
                    f"the monitor reads everything again, and some changes may be told twice ({error})",
                    err=True,
                )
    return copied


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise BackupError(f"{file} cannot be read, or is cut short: {error}") from None


def check(archive: zipfile.ZipFile) -> list[StreamCopy]:
    """What is in the file. Raises BackupError if anything in it is damaged or missing."""
    try:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise BackupError(f"it is of format {manifest['format']}; this version reads {FORMAT}")
        copied = [StreamCopy(**copy) for copy in manifest["streams"]]
        for copy in copied:
            digest = hashlib.sha256()
            with archive.open(copy.name) as member:
                while chunk := member.read(CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != copy.sha256:
                raise BackupError(f"the file is damaged: the checksum of {copy.name} is another")
    except (KeyError, TypeError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise BackupError(f"the file is damaged, or no backup: {error}") from None
    names = [copy.name for copy in copied]
    if strange := [name for name in names if name not in ORDER]:
        raise BackupError(f"it holds {strange[0]}, which is no stream of the registry")
    if missing := [name for name in NEEDED if name not in names]:
        raise BackupError(f"it holds no {missing[0]}")
    return copied


async def _is_read(client: Client, name: str) -> bool:
    """Whether somebody waits for the next message of a stream, as every service does."""
    consumers = await client.jetstream(timeout=STEP_TIMEOUT).consumers_info(name)
    return any(each.num_waiting or each.push_bound for each in consumers)


async def _put(client: Client, archive: zipfile.ZipFile, copy: StreamCopy, replicas: int) -> str:
    """Create one stream; when the broker created it."""
    # This broker may have less room than that one; the monitor bounds the stream when it starts.
    config = {**copy.config, "num_replicas": replicas, "max_bytes": -1}
    begun = await _ask(client, f"$JS.API.STREAM.RESTORE.{copy.name}", {"config": config, "state": copy.state})
    subject = begun["deliver_subject"]
    with archive.open(copy.name) as member:
        while chunk := member.read(PUT_CHUNK):
            reply = await client.request(subject, chunk, timeout=STEP_TIMEOUT)
            answer = reply.data.decode(errors="replace")
            if TOO_SLOW in answer:
                raise BackupError(
                    f"the broker was too slow with {copy.name}, and gave up. It syncs each message to the "
                    "disk (sync_interval: always); docs/operations.md tells how to restore without that."
                )
            if "error" in answer:
                raise BackupError(f"the broker refused {copy.name}: {answer[:300]}")
    made = await _request(client, subject, timeout=CREATION_TIMEOUT)
    if error := made.get("error"):
        raise BackupError(f"{copy.name} was not restored: {error.get('description', error)}")
    if (state := made["state"])["last_seq"] < copy.last_seq:
        raise BackupError(f"{copy.name} was restored up to {state['last_seq']}, not {copy.last_seq}")
    return str(made["created"])


async def _adopt(client: Client, before: dict[str, str], now: dict[str, str]) -> None:
    """The monitor's snapshot and the notifier's cursors name their streams by the time of their creation,
    which is another one now. Up to their sequences these streams are the same, so the times are replaced."""
    renamed = {before[name]: now[name] for name in (*NEEDED, streams.RUNS) if name in now}
    js = client.jetstream(timeout=5)
    for bucket, key in ((streams.MONITOR_BUCKET, "position"), (streams.NOTIFIER_BUCKET, "record")):
        if f"KV_{bucket}" not in now:
            continue
        kv = await js.key_value(bucket)
        with suppress(NotFoundError):
            found = json.loads((await kv.get(key)).value or b"{}")
            if isinstance(found.get("streams"), list):
                found["streams"] = [renamed.get(each, each) for each in found["streams"]]
            for mark in (*found.get("marks", ()), found.get("events", {})):
                if isinstance(mark, dict) and mark.get("created") in renamed:
                    mark["created"] = renamed[mark["created"]]
            await kv.put(key, json.dumps(found, separators=(",", ":")).encode())
