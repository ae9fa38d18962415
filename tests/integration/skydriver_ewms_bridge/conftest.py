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
def limit_s(request: pytest.FixtureRequest) -> float:
    """How long to wait for an answer: not long in a test of one that never comes, else longer than a busy machine needs."""
    is_silent = "hang" in request.node.callspec.params.values() if hasattr(request.node, "callspec") else False
    return 1.0 if is_silent else 60.0


@pytest.fixture
async def bridge(database: str, tmp_path: Path, ewms: FakeEwms) -> AsyncIterator[Bridge]:
    """One replica of the bridge."""
    async with a_bridge(database, tmp_path, ewms) as bridge:
        yield bridge
