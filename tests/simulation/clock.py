"""An event loop whose time is made up: where another would sleep, it goes on to the next timer."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

OWNER: ContextVar["Owner | None"] = ContextVar("OWNER", default=None)
"""Whose task this is. Tasks inherit it from those that make them, so a process can be killed whole."""


class Owner:
    """What a process is to the loop: its tasks."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []


class Stuck(Exception):
    """Nothing is ready and no timer is set, or something turns in circles: time will never go on."""


TURNS = 20_000
"""Of the loop in one moment, at most."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Timers, tasks and callbacks only, in an order that depends on nothing but the program."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._turns = 0
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._now

    def _make_task(self, loop: Any, coro: Any, **options: Any) -> Any:
        task = asyncio.Task(coro, loop=self, **options)
        owner = (options.get("context") or {}).get(OWNER) or OWNER.get()
        if owner is not None:
            owner.tasks.append(task)
        return task

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Stuck
            self._now = max(self._now, scheduled[0]._when)
            self._turns = 0
        self._turns += 1
        if self._turns > TURNS:
            raise Stuck("time stands still")
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def play(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]], start: float = 0.0) -> None:
    """Run `main` to its end on a loop of its own, then whatever it has left behind."""
    loop = VirtualLoop()
    loop._now = start
    owner = Owner()
    token = OWNER.set(owner)
    try:
        loop.run_until_complete(main(loop))
        for task in owner.tasks:
            task.cancel()
        loop.run_until_complete(_a_few_turns())
    finally:
        OWNER.reset(token)
        loop.close()


async def _a_few_turns() -> None:
    """Time for what is cancelled to end."""
    for _ in range(20):
        await asyncio.sleep(0)
