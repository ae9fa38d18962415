"""The bridge on a database of the test's own, with EWMS in memory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, a_bridge
from tests.support.fake_ewms import FakeEwms


@pytest.fixture
def ewms() -> FakeEwms:
    """EWMS in memory."""
    return FakeEwms()


@pytest.fixture
async def bridge(database: str, tmp_path: Path, ewms: FakeEwms) -> AsyncIterator[Bridge]:
    """One replica of the bridge."""
    async with a_bridge(database, tmp_path, ewms) as bridge:
        yield bridge
