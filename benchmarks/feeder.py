"""Heartbeats straight to the broker, as a process of its own: `python -m benchmarks.feeder URL SERVICES RATE
SECONDS [fast|atomic]`. Services take turns; RATE 0: as fast as the broker takes them. Without a kind of batch
it chooses by itself. Prints how many were stored, in how many seconds, and which share in fast batches."""

import asyncio
import sys
import time

from shared.messaging import streams
from shared.messaging.batch_choice import BatchMode, BatchStrategy
from shared.messaging.batch_publisher import GROUP_MAX, BatchPublisher, StreamMessage
from shared.messaging.connection import BrokerConnection
from shared.settings import Settings


def name(n: int) -> str:
    return f"fleet.{n % 100:02}.service-{n:07}"


class Watched(BatchStrategy):
    """Counts what went how. `kind`: which kind of batch is always sent; empty: as it chooses."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.sent = {True: 0, False: 0}

    def choose(self, count: int, now: float) -> BatchMode:
        return BatchMode(self.kind == "atomic", count) if self.kind else super().choose(count, now)

    def took(self, batch: BatchMode, seconds: float, now: float) -> None:
        self.sent[batch.atomic] += batch.size
        super().took(batch, seconds, now)


async def feed(url: str, services: int, rate: float, seconds: float, kind: str = "") -> None:
    batching = Watched(kind)
    link = BrokerConnection(Settings(nats_url=(url,)), "bench")
    await link.connect()
    groups = BatchPublisher(link, timeout=20, max_waiting=4 * GROUP_MAX, batching=batching)
    await groups.start()
    beats = [StreamMessage(streams.heartbeat(name(n)), b"", b"") for n in range(services)]
    began, sent, going = time.perf_counter(), 0, set[asyncio.Task[None]]()
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * rate) - sent if rate else GROUP_MAX
        if due < min(GROUP_MAX, rate / 50) and rate:
            await asyncio.sleep(0.01)
            continue
        first = sent % services
        part = beats[first : first + min(due, GROUP_MAX)]
        sent += len(part)
        going.add(asyncio.create_task(groups.store(part)))
        while len(going) > 2:
            done, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*going)
    fast = batching.sent[False] / max(1, sum(batching.sent.values()))
    sys.stdout.write(f"{sent} {time.perf_counter() - began} {fast}\n")
    await link.close()


if __name__ == "__main__":
    url, services, rate, seconds, *kind = sys.argv[1:]
    asyncio.run(feed(url, int(services), float(rate), float(seconds), *kind))
