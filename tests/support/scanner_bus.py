"""Scanners on the bus as tests need them: their tokens, their messages, and the batch consumers that take them, in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractExchange

from skydriver_common.auth import Issuer, JwksFile, TokenSigner, TokenVerifier, ensure_key
from skydriver_common.bus import topology
from skydriver_common.db.schedule import Schedule
from skydriver_common.log import blobs
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_progress.adapters.batch_consumer import BatchConsumer, Settled
from skydriver_progress.ingest import Ingest
from skydriver_progress.retention import Retention
from skydriver_progress.scan_token_verifier import ScanTokenVerifier
from skydriver_scanner import protocol
from tests.support.histories import Store, a_context
from tests.support.waiting import until

ISSUER, AUDIENCE = "skydriver-local", "skydriver"
METADATA: dict[str, Any] = {
    "event_metadata": {"run_id": 138632, "event_id": 31747601, "event_type": None, "mjd": 60280.7, "is_real_event": True},
    "scan_metadata": {"scan_id": "s", "nside_progression": {"8": 0, "64": 12, "512": 24}, "position_variations": 1},
}


def a_progress(n: int, *, finished: bool = False, **changes: Any) -> dict[str, Any]:
    """The content of a progress message: the n-th, about 4 kB, as the scanner contract shows it (section 5)."""

    def group(done: int) -> dict[str, Any]:
        return {"done": done, "done est. percent": f"{done}/3072 ({done / 3072:.2f})", "generated": 3072,
                "initial approximation total": 3072}  # fmt: skip

    spread = {"mean": "0:00:41", "median": "0:00:37", "slowest": "0:03:12", "fastest": "0:00:08"}
    rates = {
        "worker time": spread, "round-trip time": spread,
        "wall time": {"start": "2026-03-05 14:02:31", "end": "2026-03-05 14:23:40", "runtime": "0:21:09", "mean reco": "0:00:01"},
    }  # fmt: skip
    return {
        "progress": {
            "summary": "Scanning.", "epilogue": "Next report in 60 s.", "predictive_scanning_threshold": 0.5,
            "tallies": {
                "nsides": {nside: {"recos": group(n % 3072), "pixels": group(n % 3072)} for nside in ("8", "64", "512", "1024")},
                "overall": {"recos": group(n), "pixels": group(n)},
                "est. scan timeline": {"0.00032": "0:02:41", "0.1": "0:07:10", "0.2": "0:12:52", "0.3": "0:19:03"},
            },
            "processing_stats": {
                "start": {"scanner start": "2026-03-05 14:00:02", "reco start (on server)": "2026-03-05 14:02:31",
                          "reco start (on first worker)": "2026-03-05 14:02:40"},
                "runtime": {"elapsed": f"0:{n // 60:02}:{n % 60:02}", "startup runtime": "0:02:29",
                            "reco runtime (on server)": "0:21:11", "reco start delay (on first worker)": "0:00:09"},
                "rate": {"all recos": rates, "nside-8": rates, "nside-64": rates, "nside-512": rates, "nside-1024": rates},
                "predictions": {"time left": "0:43:20", "total runtime at finish": "1:07:00", "end": "2026-03-05 15:07:02",
                                "total # of reconstructions": 3136, "technique": "average over the whole run"},
                "finished": finished,
            },
            "last_updated": f"report {n}", "start": 1709647202, "end": 1709650000 if finished else None,
        },
        **METADATA,
        **changes,
    }  # fmt: skip


@dataclass
class ScannerBus:
    """Publishes as scanners do, with publisher confirms."""

    exchange: AbstractExchange
    signer: TokenSigner
    store: Store
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, scan_id: ScanId, *, life: timedelta = timedelta(hours=1)) -> str:
        """A token for this scan."""
        return self.signer.scan_token(ScanId(scan_id), datetime.now(UTC) + life)

    async def send(
        self, kind: str, scan_id: ScanId, content: Mapping[str, Any], *, sequence: int, producer: str = "p1",
        encoding: str = protocol.NONE, token: str | None = None, **changes: Any,
    ) -> None:  # fmt: skip
        """One message. changes: of what is published (body, headers, routing_key)."""
        if token is None:
            token = self.tokens.setdefault(scan_id, self.token(scan_id))
        packed = protocol.pack(
            kind, scan_id, content, token=token, producer=producer, sequence=sequence, content_encoding=encoding
        )
        await self.publish(packed, **changes)

    async def publish(self, packed: protocol.PackedMessage, **changes: Any) -> None:
        """Publish what was packed, or something a little different."""
        message = aio_pika.Message(
            changes.get("body", packed.body), headers=dict(packed.headers) | changes.get("headers", {}),
            content_type=packed.content_type, content_encoding=changes.get("content_encoding", packed.content_encoding),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=f"{packed.headers['producer']}-{packed.headers['sequence']}",
        )  # fmt: skip
        await self.exchange.publish(message, changes.get("routing_key", packed.routing_key))

    async def scan(self, scan_id: ScanId) -> Scan:
        """The scan as it stands."""
        async with self.store.uows["progress"].on_scans(a_context(), [scan_id]) as tx:
            scan = tx.scan(scan_id)
        assert scan is not None
        return scan

    async def until(self, scan_id: ScanId, condition: Callable[[Scan], bool], *, limit_s: float = 60.0) -> Scan:
        """Wait until the scan is so."""

        async def is_so() -> Scan:
            scan = await self.scan(scan_id)
            assert condition(scan), f"the scan is at version {scan.version}: {scan}"
            return scan

        return await until(is_so, "the scan is so", limit_s, not_yet=AssertionError)


@dataclass
class DeadLetters:
    """The dead letters of the node, read and removed: over a connection of its own each time, since tests kill brokers."""

    amqp_url: str

    async def read(self, count: int, *, limit_s: float = 60.0) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """This many letters, and no more than these are there."""
        async with await aio_pika.connect(self.amqp_url, timeout=10) as connection:
            queue = await (await connection.channel()).get_queue(topology.DEAD_LETTER_QUEUE, ensure=False)
            found: list[aio_pika.abc.AbstractIncomingMessage] = []

            async def are_there() -> bool:
                while len(found) < count and (message := await queue.get(no_ack=True, fail=False, timeout=30)):
                    found.append(message)
                assert len(found) >= count, f"{len(found)} of {count}"
                return True

            await until(are_there, "the dead letters are there", limit_s, not_yet=AssertionError)
            assert await queue.get(no_ack=True, fail=False, timeout=30) is None
            return found

    async def reasons(self, count: int) -> list[str]:
        """Their reasons, sorted."""
        return sorted(str(letter.headers["x-reason"]) for letter in await self.read(count))


@asynccontextmanager
async def batch_consumers(
    amqp_url: str,
    store: Store,
    jwks: Path,
    *,
    coalesces: bool = True,
    token_grace_s: float = 600.0,
    prefetch: int = 500,
    settled: Settled = lambda *_: None,
) -> AsyncIterator[asyncio.Event]:
    """The three batch consumers at work in this process; yields what stops them."""
    stopping = asyncio.Event()
    verifier = TokenVerifier([Issuer(ISSUER, JwksFile(jwks))], audience=AUDIENCE)
    schedule = Schedule(store.pool, store.notifier, holder="test")
    retention = Retention(store.uows["progress"], schedule, keep=timedelta(days=1))

    works = []
    for kind in topology.SCANNER_KINDS:
        ingest = Ingest(
            store.pool, store.notifier, UnitOfWork(store.pool, store.notifier, writer="progress"), ScanTokenVerifier(verifier),
            coalesces=coalesces, token_grace_s=token_grace_s, retention=retention,
        )  # fmt: skip
        consumer = BatchConsumer(
            amqp_url, topology.scanner_queue(kind), ingest, prefetch=prefetch if kind == "progress" else 4,
            max_batch=prefetch if kind == "progress" else 4, stopping=stopping, settled=settled,
            can_write=partial(blobs.can_be_written, store.pool),
        )  # fmt: skip
        works.append(asyncio.create_task(consumer.run()))
    try:
        yield stopping
    finally:
        stopping.set()
        await asyncio.gather(*works)


@asynccontextmanager
async def scanner_bus(amqp_url: str, store: Store, keys: Path) -> AsyncIterator[tuple[ScannerBus, DeadLetters, Path]]:
    """The exchanges and queues, a publisher, and the key set that its tokens are checked with. Queues go at the end."""
    key = keys / "key.pem"
    jwks = await asyncio.to_thread(ensure_key, key)
    signer = TokenSigner.from_file(key, issuer=ISSUER, audience=AUDIENCE)
    connection = await aio_pika.connect_robust(amqp_url)
    try:
        channel = await connection.channel(publisher_confirms=True)
        await topology.declare(channel)
        exchange = await channel.get_exchange(topology.SCANNER_EXCHANGE.name)
        yield ScannerBus(exchange, signer, store), DeadLetters(amqp_url), jwks
        async with await aio_pika.connect(amqp_url, timeout=10) as another:  # the broker may have been killed meanwhile
            cleaning = await another.channel()
            for kind in topology.SCANNER_KINDS:
                await cleaning.queue_delete(topology.scanner_queue(kind).name)
    finally:
        await connection.close()


def size_of(content: Mapping[str, Any]) -> int:
    """Bytes of a message's content."""
    return len(orjson.dumps(content))
