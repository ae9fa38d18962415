"""`skydriver log tail | show | stats | history | state`, as a person runs them."""

import asyncio
import json
import signal
import sys
from datetime import timedelta

import aio_pika
import pytest

from skydriver_common.bus import topology
from skydriver_common.bus.broker import connect
from skydriver_common.db.schedule import Schedule
from skydriver_common.log.state_at import state_at
from skydriver_common.model import events as ev
from skydriver_ops.bus.queue_stats import known_queues
from skydriver_ops.eventlog import describe, selection
from tests.support.histories import Store, a_report, a_store, skydriver
from tests.support.waiting import until


async def test_the_log_is_readable_from_the_command_line(store: Store) -> None:
    first, second = await store.a_finished_scan(), await store.a_scan()
    url = ("--database-url", store.url, "--json")
    tail = await skydriver("log", "tail", "-n", "3", *url)
    assert [line["version"] for line in tail.lines] == [8, 9, 1]
    assert tail.lines[-1]["scan_id"] == second

    of_type = await skydriver("log", "tail", "--type", "scan.result-received", *url)
    assert [(line["scan_id"], line["type"]) for line in of_type.lines] == [(first, "scan.result-received")]

    position = tail.lines[-1]["position"]
    shown = (await skydriver("log", "show", str(position), *url)).json
    assert shown["type"] == "scan.requested"
    assert len(shown["hash"]) == 64

    stats = (await skydriver("log", "stats", *url)).json
    assert stats["events"] == 10
    assert {row["type"] for row in stats["per_type_and_day"]} >= {"scan.requested", "scan.progress-reported"}

    story = await skydriver("log", "history", first, "--database-url", store.url)
    assert "tester" in story.out
    assert "final result, 10 bytes" in story.out

    then = (await skydriver("log", "state", first, "--at", "6", *url)).json
    assert (then["version"], then["manifest"]["progress"]["summary"]) == (6, "report 1")


async def test_times_may_be_ages_and_unknown_types_are_told(store: Store) -> None:
    await store.a_finished_scan()
    url = ("--database-url", store.url, "--json")
    assert len((await skydriver("log", "tail", "--since", "2h", "-n", "100", *url)).lines) == 9
    assert (await skydriver("log", "tail", "--until", "2h", "-n", "100", *url)).lines == []
    for command in (("log", "tail"), ("log", "replay", "--dry-run", "--to", "audit")):
        ran = await skydriver(*command, "--type", "scan.result-recieved", *url)
        assert ran.code == 2
        assert "Did you mean scan.result-received" in ran.err
    assert "30m, 2h or 3d ago" in (await skydriver("log", "tail", "--since", "yesterday", *url)).err


async def test_the_program_tells_its_version() -> None:
    ran = await skydriver("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "skydriver")


async def test_what_does_not_exist_is_said_in_one_line(store: Store) -> None:
    url = ("--database-url", store.url)
    for words in (("log", "show", "7"), ("log", "history", "none"), ("log", "state", "none", "--at", "1")):
        ran = await skydriver(*words, *url)
        assert ran.code == 1
        assert "Traceback" not in ran.err
    assert "can't reach the database" in (await skydriver("log", "stats", "--database-url", "postgresql://127.0.0.1:1/x")).err


async def test_the_manifest_of_any_moment_is_the_one_that_was_served_then(store: Store) -> None:
    scan_id = await store.a_scan()
    served = [await store.append("progress", scan_id, a_report(n)) for n in range(1, 6)]
    for then in served:
        assert await state_at(store.pool, scan_id, version=then.version) == then
    moments = await store.pool.fetch("SELECT version, recorded_at FROM event_log WHERE scan_id = $1 ORDER BY version", scan_id)
    for row, then in zip(moments[1:], served, strict=True):
        assert await state_at(store.pool, scan_id, moment=row["recorded_at"]) == then


async def test_following_prints_what_comes_and_ends_quietly(store: Store) -> None:
    await store.a_scan()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skydriver_cli.app", "log", "tail", "-f", "--json", "--database-url", store.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(120):
        await process.stdout.readline()
        scan_id = await store.a_scan()
        assert json.loads(await process.stdout.readline())["scan_id"] == scan_id
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert b"Traceback" not in err


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_pages_give_each_event_once_whatever_their_size(store: Store, size: int) -> None:
    scans = [await store.a_scan() for _ in range(4)]
    await store.append("progress", scans[0], *(a_report(n) for n in range(1, 6)))
    read = [link async for page in selection.iter_pages(store.pool, page=size) for link in page]
    assert [link.event.position for link in read] == list(range(1, 10))
    of_one = selection.Selection(scan_id=scans[0], types=("scan.progress-reported",))
    assert [link.event.version async for page in selection.iter_pages(store.pool, of_one, page=size) for link in page] == [
        2,
        3,
        4,
        5,
        6,
    ]
    again = [
        link
        async for page in selection.iter_pages(store.pool, after=await selection.cursor_before(store.pool, 7))
        for link in page
    ]
    assert [link.event.position for link in again] == [7, 8, 9]


def test_every_event_type_has_its_own_sentence() -> None:
    fillers = {"dict": {"i3_event_id": "e", "priority": 1, "run_id": 1, "event_id": 2}, "list": [], "int": 1, "float": 1.0,
               "str": "s", "ScanId": "s", "ScannerStage": "running", "bool": True}  # fmt: skip
    for type_, cls in ev.EVENT_TYPES.items():
        values = {
            name: fillers[str(getattr(kind, "__name__", kind)).split("[")[0].split(" ")[0]]
            for name, kind in cls.__annotations__.items()
            if name != "type"
        }
        if type_ == "scan.workforce-changed":
            values["top_errors"] = {"e": 1}
        assert describe.sentence(cls(**values)) != type_


async def test_a_store_without_events_reads_as_empty(database: str) -> None:
    async with a_store(database) as store:
        assert [page async for page in selection.iter_pages(store.pool)] == []
        assert await selection.load_head(store.pool) == selection.START
        assert (await skydriver("log", "tail", "--json", "--database-url", database)).out == ""


async def test_stats_show_who_is_behind(store: Store, clean_bus: str) -> None:
    scan_id = await store.a_scan()
    schedule = Schedule(store.pool, store.notifier, holder="test")
    await schedule.put("late", scan_id, after=timedelta(minutes=-5))
    await schedule.put("later", scan_id, after=timedelta(minutes=5))
    bus = await connect(clean_bus, name="test")
    async with bus, bus.channel() as channel:
        await topology.declare(channel)
        queue = await channel.get_queue(topology.event_queue("ewms-bridge", "scan.launched").name)
        await queue.purge()
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), queue.name)

        async def is_there() -> bool:
            shown = await skydriver("log", "stats", "--json", "--database-url", store.url, "--amqp-url", clean_bus)
            assert [(row["kind"], row["overdue"], row["oldest_s"] > 290) for row in shown.json["due_work"]] == [
                ("late", 1, True),
                ("later", 0, False),
            ]
            # nothing was ever published here: all of it waits for the relay
            assert [(row["relay"], row["events_behind"], row["moved_at"]) for row in shown.json["relays"]] == [
                ("events", 1, None)
            ]
            waiting = {row["queue"]: row["messages"] for row in shown.json["queues"]}
            assert waiting["skydriver.dead-letters"] == 0
            assert len(waiting) == len(known_queues())
            return bool(waiting[queue.name] == 1)

        await until(is_there)
        await queue.purge()
    alone = await skydriver("log", "stats", "--json", "--database-url", store.url, "--amqp-url", "amqp://127.0.0.1:1/")
    assert (alone.code, alone.json["queues"]) == (0, None)
    assert "queues not shown: the message broker is unreachable" in alone.err
