"""A store, a bus and the batch consumers between them."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from skydriver_progress.adapters import batch_consumer
from tests.support.histories import Store, a_store
from tests.support.scanner_bus import DeadLetters, ScannerBus, scanner_bus


@dataclass
class Rig:
    """What a test works with. Start the batch consumers with ``batch_consumers(rig.amqp_url, rig.store, rig.jwks)``."""

    store: Store
    bus: ScannerBus
    dead: DeadLetters
    jwks: Path
    amqp_url: str


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store without any events."""
    async with a_store(database) as store:
        yield store


@pytest.fixture
async def rig(database: str, clean_bus: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """Empty store, empty queues."""
    async with a_store(database) as store, scanner_bus(clean_bus, store, tmp_path) as (bus, dead, jwks):
        yield Rig(store, bus, dead, jwks, clean_bus)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sessions that batch consumers have begun, by queue."""
    begun: list[str] = []
    session = batch_consumer.BatchConsumer._session

    async def counted(self: batch_consumer.BatchConsumer, *, is_single: bool) -> None:
        begun.append(self.name)
        await session(self, is_single=is_single)

    monkeypatch.setattr(batch_consumer.BatchConsumer, "_session", counted)
    return begun


@pytest.fixture
def no_tracebacks() -> Iterator[None]:
    """No traceback is drawn: with all local variables, which services never show, that takes half a minute on a busy machine."""
    with capture_logs():
        yield
