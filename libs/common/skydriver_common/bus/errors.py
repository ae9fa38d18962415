"""Errors of the broker's client library to faults: the only place where they get a meaning."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import AMQPError

from skydriver_common.faults import TryLater


@contextmanager
def heartbeat_loss_as_connection_error() -> Iterator[None]:
    """Turn the end of a connection that went silent into ConnectionError.

    When heartbeats fail, the client library ends whatever waits for the broker with CancelledError, though nobody has cancelled
    it: a loop would take that for its own stop.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionError("the connection went silent") from error


@contextmanager
def broker_faults() -> Iterator[None]:
    """Turn what the client library raises into TryLater."""
    try:
        with heartbeat_loss_as_connection_error():
            yield
    # RuntimeError: of closed channels and connections; StopAsyncIteration: of a connection cut in its first words
    except (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration) as error:
        raise TryLater("the message broker is unreachable", 1.0) from error
