"""Answers of any size, to clients that read and to those that do not: each has its share of memory, and nobody keeps it."""

import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from skydriver_api.http import chunked as streaming
from skydriver_api.http import delivery
from skydriver_api.http.limits import WeightedSemaphore
from skydriver_api.reads import view_queries as reads
from skydriver_common.bus import topology
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs
from skydriver_common.model import event_codec
from skydriver_common.model.commands import DeleteScan, PutResult
from skydriver_common.model.events import ProgressReported, ResultReceived
from skydriver_common.model.ids import new_scan_id
from tests.integration.skydriver_api.test_gateway_under_strain import Reader
from tests.support.gateway import local_gateway
from tests.support.histories import a_request, a_store
from tests.support.waiting import until

MIB = 1024 * 1024


def _text(n_bytes: int, seed: int = 1) -> str:
    """A text that compresses little."""
    return random.Random(seed).randbytes(n_bytes // 2).hex()


class Services:
    """Carries out what it is told to, and counts."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    async def handle(self, message: AbstractIncomingMessage) -> None:
        command = json.loads(message.body)
        self.commands.append(message.routing_key or "")
        reply: dict[str, Any] = {"scan_id": command["scan_id"]}
        if message.routing_key == PutResult.key:
            reply = {"digest": command["digest"], "is_final": command["is_final"]}
        assert message.reply_to
        await self.channel.default_exchange.publish(
            aio_pika.Message(event_codec.encode(reply), correlation_id=message.correlation_id), message.reply_to
        )
        await message.ack()

    channel: aio_pika.abc.AbstractChannel


@pytest.fixture
async def services(clean_bus: str) -> AsyncIterator[Services]:
    made = Services()
    bus = await aio_pika.connect(clean_bus)
    async with bus:
        made.channel = await bus.channel()
        await topology.declare(made.channel)
        queues = []
        for key in (DeleteScan.key, PutResult.key):
            described = topology.command_queue(key)
            queue = await made.channel.declare_queue(described.name, durable=True, arguments=dict(described.arguments or {}))
            await queue.bind(topology.COMMAND_EXCHANGE.name, key)
            await queue.consume(made.handle)
            queues.append(queue)
        yield made
        for queue in queues:
            await queue.delete(if_unused=False, if_empty=False)


async def _until_free(budget: WeightedSemaphore) -> None:
    await until(lambda: budget.available == budget.total, "all of the budget is free again")


@pytest.mark.parametrize("what", ["i3-event", "manifest", "events?limit=100", "result", ""], ids=lambda what: what or "scan")
async def test_clients_that_do_not_read_hold_no_more_than_the_budget_and_not_for_long(
    database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(streaming, "STALL_TIMEOUT_S", 1.0)
    large = WeightedSemaphore(64 * MIB, what="large answers", max_wait_s=0.2)
    small = WeightedSemaphore(4 * MIB, what="answers", max_wait_s=0.2)
    event = json.dumps({"x": _text(12 * MIB)})
    skymap = b'{"y": "%b"}' % _text(10 * MIB).encode()
    async with a_store(database) as store:
        scan = new_scan_id()
        digest = await blobs.put(store.pool, event.encode())
        await store.append("dispatcher", scan, replace(a_request(scan), event_digest=digest))
        for number in range(20):
            await store.append("progress", scan, ProgressReported(progress={"x": _text(MIB // 2, number)}))
        digest = await blobs.put(store.pool, skymap)
        await store.append("progress", scan, ResultReceived(digest=digest, size_bytes=len(skymap), is_final=True))
        async with local_gateway(database, clean_bus, large_responses=large, small_responses=small) as gateway:
            stalled = [await Reader.ask(gateway, b"", f"GET /scan/{scan}/{what}".rstrip("/")) for _ in range(40)]
            firsts = [await reader.reader.readline() for reader in stalled]
            assert 0 < sum(b"200" in first for first in firsts) < 40, "some are served and the others told to come again"
            assert all(b"200" in first or b"503" in first for first in firsts)
            assert large.available >= 0
            assert small.available >= 0
            for budget in (large, small):
                await _until_free(budget)
            for reader in stalled:
                reader.writer.close()
            async with gateway.session.get(f"{gateway.url}/scan/{scan}/{what}".rstrip("/")) as answer:
                assert answer.status == 200
                await answer.read()


async def test_pages_of_events_are_bounded_by_bytes(database: str, clean_bus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "HISTORY_PAGE_BYTES", 2 * MIB)
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway:
        scan = await store.a_scan()
        for number in range(12):
            await store.append("progress", scan, ProgressReported(progress={"x": "y" * (MIB // 2), "n": number}))
        versions, sizes, after = [], [], 0
        while after is not None:
            async with gateway.session.get(f"{gateway.url}/scan/{scan}/events?after={after}&limit=7") as answer:
                content = await answer.read()
            page = json.loads(content)
            sizes.append(len(content))
            versions += [event["version"] for event in page["events"]]
            after = page["next"]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) > 12
        assert max(sizes) < 3 * MIB
        async with gateway.session.get(f"{gateway.url}/scan/{scan}/events?limit={len(versions)}&after=10") as answer:
            assert json.loads(await answer.read())["next"] is None
        headers = {"Accept": "text/event-stream"}
        async with gateway.session.get(f"{gateway.url}/scan/{scan}/events", headers=headers) as stream:
            for version in versions:
                assert await stream.content.readline() == b"id: %d\n" % version
                while await stream.content.readuntil(b"\n", max_size=MIB) != b"\n":
                    pass


async def test_what_has_taken_effect_is_not_answered_503(
    database: str, clean_bus: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = WeightedSemaphore(20 * MIB, what="large answers", max_wait_s=0.2)
    skymap = b'{"y": "%b"}' % _text(10 * MIB).encode()
    async with a_store(database) as store, local_gateway(database, clean_bus, large_responses=large) as gateway:
        scan = await store.a_scan()
        digest = await blobs.put(store.pool, skymap)
        await store.append("progress", scan, ResultReceived(digest=digest, size_bytes=len(skymap), is_final=True))
        url = f"{gateway.url}/scan/{scan}"
        async with large.hold(15 * MIB), gateway.session.delete(url, json={"delete_completed_scan": True}) as answer:
            assert (answer.status, services.commands) == (503, [])
        async with gateway.session.delete(url, json={"delete_completed_scan": True}) as answer:
            assert answer.status == 200
            assert (await answer.read()).endswith(b'"skyscan_result":%b,"is_final":true}}' % skymap)
        assert services.commands == [DeleteScan.key]

        async def away(*_: object) -> None:
            raise TryLater("the database is away")

        monkeypatch.setattr(gateway.deps.reads, "result_body", away)
        async with gateway.session.delete(url, json={"delete_completed_scan": True}) as answer:
            assert answer.status == 503
        assert services.commands == [DeleteScan.key]
        assert large.available == large.total


@pytest.mark.parametrize("n_bytes", [1000, 3 * MIB, 40 * MIB])
async def test_a_result_that_is_put_comes_back_as_it_was_sent_unless_little_is_wanted(
    database: str, clean_bus: str, services: Services, n_bytes: int
) -> None:
    skymap = b'{"x": NaN, "y": "%b" }' % _text(n_bytes).encode()
    body = b'{"is_final": false, "skyscan_result": %b}' % skymap
    budget = WeightedSemaphore(120 * MIB, what="large bodies")
    async with a_store(database) as store, local_gateway(database, clean_bus, request_bodies=budget, deadline_s=20) as gateway:
        scan = await store.a_scan()
        async with gateway.session.put(f"{gateway.url}/scan/{scan}/result", data=io.BytesIO(body)) as answer:
            whole = b'{"scan_id":"%b","skyscan_result":%b,"is_final":false}' % (scan.encode(), skymap)
            assert (answer.status, await answer.read() == whole) == (200, True)
        async with gateway.session.put(
            f"{gateway.url}/scan/{scan}/result", data=io.BytesIO(body), headers={"Prefer": "respond-async, Return=minimal; x=1"}
        ) as answer:
            assert (answer.status, answer.headers["Preference-Applied"], await answer.read()) == (200, "return=minimal", b"{}")
        assert len(services.commands) == 2
        assert budget.available == budget.total
        assert await blobs.get(store.pool, (await _stored(store.pool))[0]) == skymap


async def _stored(pool: Any) -> list[str]:
    return [row["digest"] for row in await pool.fetch("SELECT digest FROM blobs ORDER BY size DESC LIMIT 1")]


async def test_the_backlog_comes_in_pages_and_as_a_whole(database: str, clean_bus: str) -> None:
    async with a_store(database) as store, local_gateway(database, clean_bus) as gateway:
        scans = [await store.a_scan() for _ in range(7)]

        async def entries(query: str) -> list[str]:
            async with gateway.session.get(f"{gateway.url}/scans/backlog{query}") as answer:
                assert answer.status == 200
                return [entry["scan_id"] for entry in (await answer.json())["entries"]]

        whole = await entries("")
        assert sorted(whole) == sorted(scans)
        assert await entries("?limit=3") == whole[:3]
        assert await entries(f"?limit=3&after={whole[2]}") == whole[3:6]
        assert await entries(f"?after={whole[5]}") == whole[6:]
        await store.pool.execute("DELETE FROM backlog WHERE scan_id = $1", whole[2])
        assert await entries(f"?after={whole[2]}") == whole[3:], "one that has left still tells where it stood"
        for wrong in ("?limit=0", "?limit=x", "?after=a%20b", "?after=%00"):
            async with gateway.session.get(f"{gateway.url}/scans/backlog{wrong}") as answer:
                assert answer.status == 400
        await store.pool.execute("DELETE FROM backlog")
        assert await entries("") == []


async def test_small_answers_are_not_counted_and_do_not_wait(database: str, clean_bus: str) -> None:
    none = WeightedSemaphore(1, what="answers", max_wait_s=0.1)
    async with none.hold(), local_gateway(database, clean_bus, small_responses=none) as gateway, AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(gateway.session.get(gateway.url)) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert delivery.COUNTED_BYTES >= 64 * 1024
