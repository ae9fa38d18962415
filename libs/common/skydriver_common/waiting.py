"""Waiting for one of several things."""

import asyncio
from collections.abc import Awaitable
from typing import Any


async def wait_first(*waits: Awaitable[Any]) -> None:
    """Return when the first of the waits has ended; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
