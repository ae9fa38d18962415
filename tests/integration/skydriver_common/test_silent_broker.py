"""A broker that goes silent: no error comes, only heartbeats fail. What waits for it must learn that it is away, and go on."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.faults import TryLater
from tests.support.histories import Store
from tests.support.proxy import Proxy


@pytest.fixture
async def proxy(clean_bus: str) -> AsyncIterator[Proxy]:
    """A way to the broker that can be stalled."""
    made = Proxy(urlsplit(clean_bus).port or 5672)
    await made.open()
    yield made
    await made.close()


async def test_the_relay_waits_for_a_broker_that_went_silent(store: Store, clean_bus: str, proxy: Proxy) -> None:
    parts = urlsplit(clean_bus)
    url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}", query="heartbeat=1").geturl()
    bus = await connect(url, name="test")
    relay = Relay(store.url, bus, name="test")
    await store.a_scan()
    while await relay.step():
        pass
    proxy.stall()
    await store.a_scan()
    with pytest.raises(TryLater):
        await relay.step()
    proxy.flow()
    for _ in range(100):
        try:
            if not await relay.step():
                break
        except TryLater:
            continue
    else:
        raise AssertionError("the relay does not come back")
    await relay.close()
    await bus.close()
