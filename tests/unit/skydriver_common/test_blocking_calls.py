"""Calls that may block for ever: they keep their places, and take nobody else's."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from skydriver_common.blocking_calls import BlockingCalls, CallsHang, IsolatedResolver
from tests.support.waiting import until


async def test_what_a_call_returns_and_raises_comes_back() -> None:
    calls = BlockingCalls("test-call")
    assert await calls.run(lambda: 5, limit_s=20) == 5

    def fail() -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await calls.run(fail, limit_s=20)
    assert calls.n_running == 0


async def test_a_call_that_hangs_keeps_its_place_until_it_returns() -> None:
    calls, may_return = BlockingCalls("test-call", max_threads=2), threading.Event()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await calls.run(may_return.wait, limit_s=0.02)
    for _ in range(20):
        with pytest.raises(CallsHang):
            await calls.run(may_return.wait, limit_s=20)
    assert calls.n_running == 2
    may_return.set()
    await until(lambda: not calls.n_running, "the calls that nobody waits for have returned")
    assert await calls.run(lambda: 1, limit_s=20) == 1


async def test_names_of_hosts_are_resolved_apart_from_the_loop_s_own_look_ups() -> None:
    may_return = threading.Event()

    def hanging(*_: Any, **__: Any) -> list[Any]:
        may_return.wait()
        return []

    resolver = IsolatedResolver(limit_s=0.02, look_up=hanging)
    for _ in range(20):
        with pytest.raises(OSError):  # noqa: PT011  (TimeoutError is one; what aiohttp knows as a failed look-up)
            await resolver.resolve("registry.example", 443)
    found = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert found
    may_return.set()
    [first, *_] = await IsolatedResolver().resolve("127.0.0.1", 80)
    assert (first["host"], first["port"], first["family"]) == ("127.0.0.1", 80, socket.AF_INET)
