"""The relay tells a scan's own scanner to stop, beside publishing the event that says so."""

import aio_pika
import pytest

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.bus.relay import Relay
from skydriver_common.model import events as ev
from skydriver_scanner import protocol
from tests.support.histories import Store


@pytest.mark.parametrize(
    ("writer", "event", "reason"),
    [
        ("dispatcher", ev.ScanDeleted(), "deleted"),
        ("ewms_bridge", ev.WorkflowDeactivated(workflow_id="WF-1", label="ABORTED"), "deactivated"),
        ("dispatcher", ev.ScanLaunched(launcher="local", job="j"), None),
    ],
)
async def test_an_event_that_ends_a_scan_reaches_its_stop_queue_and_no_other(
    store: Store, clean_bus: str, writer: str, event: ev.Event, reason: str | None
) -> None:
    mine, other = await store.a_scan(), await store.a_scan()
    connection = await aio_pika.connect(clean_bus)
    async with connection:
        channel = await connection.channel()
        await topology.declare(channel)
        queues = {}
        for scan_id in (mine, other):
            queues[scan_id] = await channel.declare_queue(protocol.stop_queue(scan_id, "test"), exclusive=True)
            await queues[scan_id].bind(protocol.STOP_EXCHANGE, scan_id)
        await store.append(writer, mine, event)
        bus = await connect(clean_bus, name="test")
        relay = Relay(store.url, bus, name="test")
        while await relay.step() is True:
            pass
        await relay.close()
        await bus.close()
        heard = await queues[mine].get(no_ack=True, fail=False)
        assert (protocol.stop_reason(heard.body) if heard is not None else None) == reason
        assert await queues[other].get(no_ack=True, fail=False) is None
