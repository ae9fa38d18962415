"""What an operator alarms on: how far the relay is behind, also when an open transaction holds it back; what was appended."""

from collections import Counter

import pytest

from skydriver_common.bus import relay, topology
from skydriver_common.bus.broker import connect
from skydriver_common.faults import TryLater
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.ids import new_scan_id
from tests.support.histories import Store, a_context, a_request
from tests.support.waiting import until


async def test_events_that_an_open_transaction_holds_back_are_lag(store: Store, clean_bus: str) -> None:
    lags: list[float] = []
    bus = await connect(clean_bus, name="test")
    async with bus, bus.channel() as channel:
        await topology.declare(channel)
        relaying = relay.Relay(store.url, bus, name="test", on_lag=lags.append)
        async with store.pool.acquire() as other, other.transaction():
            await other.execute("SELECT pg_current_xact_id()")  # it could still write something older
            await store.a_scan()
            assert await relaying.step() is False
            assert lags[-1] > 0
        while await relaying.step() is not False:
            pass
        await relaying.step()
        assert lags[-1] == 0
        await relaying.close()


async def test_another_relay_takes_over_from_one_that_stands_still(
    store: Store, clean_bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.a_scan()
    bus = await connect(clean_bus, name="test")
    async with bus, bus.channel() as channel:
        await topology.declare(channel)
        monkeypatch.setattr(relay, "FROZEN_S", 1.0)
        frozen, other = (relay.Relay(store.url, bus, name="test") for _ in range(2))
        while await frozen.step() is not False:
            pass

        async def is_active() -> bool:
            return await other.step() is False  # a relay on stand-by says when to ask again

        await until(is_active)
        await store.a_scan()
        assert isinstance(await frozen.step(), float), "it is the one on stand-by now"
        assert await other.step() is False
        await frozen.close()
        await other.close()


async def test_a_log_that_was_restored_on_a_younger_server_is_not_relayed_out_of_order(store: Store, clean_bus: str) -> None:
    await store.a_scan()
    async with store.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE event_log SET xid = '99999999999'")
    bus = await connect(clean_bus, name="test")
    async with bus:
        relaying = relay.Relay(store.url, bus, name="test")
        for _ in range(2):
            with pytest.raises(TryLater, match="another database server"):
                await relaying.step()
        await relaying.close()


async def test_events_are_counted_by_type_once_they_are_committed(store: Store) -> None:
    counted: Counter[str] = Counter()
    uow = UnitOfWork(
        store.pool,
        store.notifier,
        writer="dispatcher",
        on_appended=lambda event_type, number: counted.update({event_type: number}),
    )
    scan_id = new_scan_id()
    async with uow.on_scans(a_context(), [scan_id]) as tx:
        tx.append(scan_id, [a_request(scan_id)])
        assert not counted
    assert counted == {"scan.requested": 1}
