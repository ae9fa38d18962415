"""The one way in which tests wait for something: a condition with a name, and what was last seen when it never came true.

The limits only end a test that would hang; they say nothing about speed.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["until", "wait_until"]

T = TypeVar("T")

_LIMIT_S = 60.0
_POLL_S = 0.05


def wait_until(condition: Callable[[], T | None], limit_s: float = _LIMIT_S, what: str = "") -> T:
    """Poll a condition and return its first true value. Raises AssertionError, which names `what` and what was last seen."""
    deadline = time.monotonic() + limit_s
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(_gave_up(condition, limit_s, what, seen))
        time.sleep(_POLL_S)
    return seen


async def until(condition: Callable[[], Any], what: str = "", limit_s: float = _LIMIT_S, poll_s: float = _POLL_S) -> Any:
    """As `wait_until`, on the event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = condition()
        seen = await answer if inspect.isawaitable(answer) else answer
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(_gave_up(condition, limit_s, what, seen))
        await asyncio.sleep(poll_s)


def _gave_up(condition: object, limit_s: float, what: str, seen: object) -> str:
    return f"not within {limit_s:g} s: {what or getattr(condition, '__name__', 'the condition')}; last seen: {seen!r}"
