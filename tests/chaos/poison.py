"""Messages with bytes in their properties that no client library writes: one that is taken, one that is refused."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika

from skydriver_common.bus import topology
from skydriver_common.model.ids import ScanId
from skydriver_scanner import protocol
from tests.chaos.environment import ChaosEnvironment

MARK = b"chaos poison"
"""In the body of each; the verifier does not ask why such a letter is there."""


class _Bytes(str):
    """A text that is 255 bytes, none of them UTF-8, once it is on the wire."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff" * 255


async def publish(field: ChaosEnvironment, scan_id: str) -> None:
    """Report on this scan with odd properties, well and under a token that is none; confirmed by the broker. Raises AMQPError."""
    good = field.signer().scan_token(ScanId(scan_id), datetime.now(UTC) + timedelta(hours=1))
    content: dict[str, Any] = {"progress": {"summary": MARK.decode(), "start": 1, "processing_stats": {"finished": False}}}
    async with await aio_pika.connect(field.amqp_url, timeout=10) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(topology.SCANNER_EXCHANGE.name, ensure=False)
        for token in (good, "none"):
            packed = protocol.pack(
                protocol.PROGRESS,
                scan_id,
                content,
                token=token,
                producer=uuid.uuid4().hex,
                sequence=time.monotonic_ns() % 2**62,
            )
            odd = _Bytes("x")
            message = aio_pika.Message(
                packed.body, headers=dict(packed.headers), content_type=packed.content_type,
                content_encoding=packed.content_encoding, delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=odd, correlation_id=odd, app_id=odd, type=odd, reply_to=odd,
            )  # fmt: skip
            await exchange.publish(message, packed.routing_key, timeout=10)
