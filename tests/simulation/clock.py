"""An event loop whose time is made up: where another would sleep, it goes on to the next timer."""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from types import coroutine
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


class Call:
    """What is to be called, unless it is cancelled before; in place of asyncio's handles, which do more."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None):
        self.callback = callback
        self.args = args
        self.context = copy_context() if context is None else context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class VirtualLoop(asyncio.BaseEventLoop):
    """Timers, tasks and callbacks only, in an order that depends on nothing but the program."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._calls: deque[Call] = deque()
        self._timers: list[tuple[float, int, Call]] = []
        """By their time, and of the same time in the order in which they were set."""
        self._count = 0
        self.get_debug = bool  # type: ignore[method-assign, assignment] # asked for each task and future

    def time(self) -> float:
        return self._now

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> Any:
        task = asyncio.Task(coro, loop=self, name="" if name is None else str(name), context=context)
        owner = (context or {}).get(OWNER) or OWNER.get()
        if owner is not None:
            owner.tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        call = Call(callback, args, context)
        self._calls.append(call)
        return call

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        call = Call(callback, args, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, call))
        return call

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Whoever waits for a task learns what it has raised; nobody else does."""

    def _run_once(self) -> None:
        """Until the loop is to stop."""
        calls, timers, turns = self._calls, self._timers, 0
        while not self._stopping:  # type: ignore[attr-defined]
            if not calls:
                while timers and timers[0][2].is_cancelled:
                    heapq.heappop(timers)
                if not timers:
                    raise Stuck
                self._now, turns = max(self._now, timers[0][0]), 0
            turns += 1
            if turns > TURNS:
                raise Stuck("time stands still")
            while timers and timers[0][0] <= self._now:
                calls.append(heapq.heappop(timers)[2])
            for _ in range(len(calls)):
                call = calls.popleft()
                if not call.is_cancelled:
                    call.context.run(call.callback, *call.args)

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


@coroutine
def turn() -> Generator[None, None, None]:
    """`asyncio.sleep(0)`, by a shorter way."""
    yield


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
        await turn()
