"""The store on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest

from tests.support.histories import Store, a_store


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store without any events."""
    async with a_store(database) as store:
        yield store
