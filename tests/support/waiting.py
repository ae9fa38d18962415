"""The one way in which tests wait: for a condition with a name, with what was last seen in the error when it never came true.

The limits only end a test that would hang; they say nothing about speed. No test sleeps to give something time: `tests/unit/test_habits.py`
finds it. What takes time on purpose (a random moment, a fault of some length, a slow disk) says so by `pause` or `block`.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, overload

__all__ = ["block", "let_others_run", "pause", "until", "wait_until"]

T = TypeVar("T")
Errors = type[BaseException] | tuple[type[BaseException], ...]

# the real ones, also while a test has put another in their place
_sleep, _sleep_on_the_loop = time.sleep, asyncio.sleep

_LIMIT_S = 180.0
_POLL_S = 0.05


def wait_until(
    condition: Callable[[], T | None],
    limit_s: float = _LIMIT_S,
    what: str = "",
    *,
    poll_s: float = _POLL_S,
    not_yet: Errors = (),
) -> T:
    """Poll a condition and return its first true value; the errors `not_yet` count as "not yet".

    Raises AssertionError, which names `what` and what was last seen.
    """
    deadline = time.monotonic() + limit_s
    while True:
        seen: object
        try:
            if answer := condition():
                return answer
            seen = answer
        except not_yet as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(_gave_up(condition, limit_s, what, seen))
        _sleep(poll_s)


@overload
async def until(
    condition: Callable[[], Awaitable[T | None]], what: str = "", limit_s: float = _LIMIT_S, poll_s: float = _POLL_S,
    *, not_yet: Errors = (),
) -> T: ...  # fmt: skip
@overload
async def until(
    condition: Callable[[], T | None], what: str = "", limit_s: float = _LIMIT_S, poll_s: float = _POLL_S,
    *, not_yet: Errors = (),
) -> T: ...  # fmt: skip
async def until(
    condition: Callable[[], Any],
    what: str = "",
    limit_s: float = _LIMIT_S,
    poll_s: float = _POLL_S,
    *,
    not_yet: Errors = (),
) -> Any:
    """As `wait_until`, on the event loop; the condition may be a coroutine function. A poll of 0 yields to the loop only."""
    deadline = time.monotonic() + limit_s
    while True:
        seen: object
        try:
            told = condition()
            answer = await told if inspect.isawaitable(told) else told
            if answer:
                return answer
            seen = answer
        except not_yet as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(_gave_up(condition, limit_s, what, seen))
        await _sleep_on_the_loop(poll_s)


async def let_others_run(rounds: int = 1) -> None:
    """Let every task that is ready run as far as it comes, this many times."""
    for _ in range(rounds):
        await _sleep_on_the_loop(0)


async def pause(seconds: float) -> None:
    """Time that passes on purpose: a random moment, the length of a fault, a slow peer. Never to wait for something."""
    await _sleep_on_the_loop(seconds)


def block(seconds: float) -> None:
    """As `pause`, for a thread: a slow disk, another moment."""
    _sleep(seconds)


def _gave_up(condition: object, limit_s: float, what: str, seen: object) -> str:
    return f"not within {limit_s:g} s: {what or _name(condition)}; last seen: {seen!r}"


def _name(condition: object) -> str:
    """The name of a function; of a lambda, the line it stands on."""
    if isinstance(condition, partial):
        return f"{_name(condition.func)}{condition.args}"
    name = str(getattr(condition, "__qualname__", condition))
    if name.endswith("<lambda>"):
        try:
            return " ".join(inspect.getsource(condition).split())  # type: ignore[arg-type]
        except OSError:
            return name
    return name
