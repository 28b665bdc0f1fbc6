"""The notifier, which kills itself (`kill -9`) at a step of its first message: `python killed_notifier.py 3`.

The steps stand before and after everything that a send does outside the process, in order; see `STEPS`.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from services.notifier import __main__ as notifier
from services.notifier.channels.telegram import Bot
from services.notifier.dispatch.notification_log import NotificationLog, ReceiverState

STEPS = (
    "before the intent is recorded",
    "after the intent is recorded",
    "before the message leaves",
    "after the answer has come",
    "before the end is recorded",
    "after the end is recorded",
)
_passed = 0


def step() -> None:
    global _passed
    _passed += 1
    if _passed > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def guarded(action: Callable[..., Awaitable[Any]], concerns: Callable[..., bool]) -> Callable[..., Any]:
    async def wrapped(*given: Any) -> Any:
        if not concerns(*given):
            return await action(*given)
        step()
        result = await action(*given)
        step()
        return result

    return wrapped


def is_of_a_message(record: NotificationLog, cursor: ReceiverState) -> bool:
    return cursor.sending is not None or record.state.sending is not None


if __name__ == "__main__":
    NotificationLog.write = guarded(NotificationLog.write, is_of_a_message)  # type: ignore[method-assign]
    Bot.send = guarded(Bot.send, lambda *_: True)  # type: ignore[method-assign]
    notifier.main()
