"""Errors of the broker's client library to faults: the only place where they get a meaning."""

from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import AMQPError

from skydriver_common.faults import TryLater


@contextmanager
def broker_faults() -> Iterator[None]:
    """Turn what the client library raises into TryLater."""
    try:
        yield
    # RuntimeError: of closed channels and connections; StopAsyncIteration: of a connection cut in its first words
    except (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration) as error:
        raise TryLater("the message broker can't be reached", 1.0) from error
