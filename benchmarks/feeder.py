"""Heartbeats straight to the broker, as a process of its own: `python -m benchmarks.feeder URL SERVICES RATE
SECONDS`. Services take turns; RATE 0: as fast as the broker takes them. Prints how many were stored, and how
many seconds that took."""

import asyncio
import sys
import time

from shared import streams
from shared.broker import Link
from shared.groups import GROUP_MAX, Groups, Message
from shared.settings import Settings


def name(n: int) -> str:
    return f"fleet.{n % 100:02}.service-{n:07}"


async def feed(url: str, services: int, rate: float, seconds: float) -> None:
    link = Link(Settings(nats_url=(url,)), "bench")
    await link.connect()
    groups = Groups(link, timeout=20, max_waiting=4 * GROUP_MAX)
    await groups.start()
    beats = [Message(streams.heartbeat(name(n)), b"", b"") for n in range(services)]
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
    sys.stdout.write(f"{sent} {time.perf_counter() - began}\n")
    await link.close()


if __name__ == "__main__":
    url, services, rate, seconds = sys.argv[1:]
    asyncio.run(feed(url, int(services), float(rate), float(seconds)))
