"""A scan that sends much that is refused does not fill the dead letters."""

from urllib.parse import urlsplit

import aio_pika
import pytest

from skydriver_cli.embedded.rabbitmq import MAX_DEAD_LETTERS, USER
from skydriver_common.bus import topology
from skydriver_progress.decide.rejections import MAX_KEPT
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.scanner_bus import a_progress, batch_consumers
from tests.support.waiting import until


async def test_of_many_refusals_the_first_are_kept_whole_and_other_scans_have_their_own(rig: Rig) -> None:
    first, second = await rig.store.a_scan(), await rig.store.a_scan()
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        for number in range(MAX_KEPT + 50):
            await rig.bus.send("progress", first, a_progress(number), sequence=number, token="no token")
        await rig.bus.send("progress", second, a_progress(1), sequence=1, token="no token")
        await rig.bus.send("progress", first, a_progress(1), sequence=1)
        await rig.bus.until(first, lambda scan: scan.sequence == 1)
        letters = await rig.dead.read(MAX_KEPT + 1)
    assert sum(letter.headers["x-from-key"] == f"progress.{second}" for letter in letters) == 1


async def test_the_dead_letters_of_an_embedded_node_are_bounded(rig: Rig) -> None:
    """The oldest go. Another broker has the policy of deploy/rabbitmq, or its operators' own."""
    if urlsplit(rig.amqp_url).username != USER:
        pytest.skip("this broker is not an embedded one")
    async with await aio_pika.connect(rig.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=False)
        for number in range(MAX_DEAD_LETTERS + 500):
            await channel.default_exchange.publish(aio_pika.Message(str(number).encode()), topology.DEAD_LETTER_QUEUE)

        async def is_bounded() -> bool:
            queue = await channel.get_queue(topology.DEAD_LETTER_QUEUE)
            return queue.declaration_result.message_count == MAX_DEAD_LETTERS

        await until(is_bounded)
        queue = await channel.get_queue(topology.DEAD_LETTER_QUEUE)
        oldest = await queue.get(no_ack=True)
        assert oldest is not None
        assert oldest.body == b"500"
        await queue.purge()
