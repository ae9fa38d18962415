"""A dispatcher on a database of the test's own, and a Kubernetes API over HTTP."""

from collections.abc import AsyncIterator

import pytest

from tests.support.dispatchers import Dispatcher, a_dispatcher
from tests.support.histories import Store, a_store
from tests.support.kmock_cluster import Cluster, a_cluster


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A store without any events."""
    async with a_store(database) as store:
        yield store


@pytest.fixture
async def dispatcher(store: Store) -> AsyncIterator[Dispatcher]:
    """One replica on an empty cluster."""
    async with a_cluster() as (cluster, client):
        yield a_dispatcher(store, cluster, client)


__all__ = ["Cluster"]
