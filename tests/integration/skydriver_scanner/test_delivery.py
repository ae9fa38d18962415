"""What a scanner hands over arrives: over a broker that is cut and restarted, over REST when there is no bus."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from typing import Any

import aio_pika
import pytest

from skydriver_scanner import (
    AsyncScannerSession,
    MessageRejected,
    NotDelivered,
    ScannerError,
    ScannerSession,
    SessionSettings,
    SettingsError,
    SpoolFull,
    engine,
    protocol,
)
from tests.integration.skydriver_scanner.conftest import Reader
from tests.support.proxy import Proxy
from tests.support.sandbox_parts import FakeSkyDriver
from tests.support.waiting import until

SKYMAP = {"nside-1": {"columns": ["index", "llh"], "data": [[0, 1.5], [1, float("nan")]]}}
BODY: dict[str, Any] = {
    "progress": {"summary": "…"},
    "event_metadata": {"run_id": 1},
    "scan_metadata": {"position_variations": 1},
}


def numbered(number: int, size: int = 100) -> dict[str, Any]:
    return {"number": number, "filler": "x" * size}


async def test_each_kind_arrives_as_the_protocol_says(settings: SessionSettings, reader: Reader) -> None:
    async with AsyncScannerSession(settings) as session:
        await session.report_progress(**BODY)
        assert await session.flush(20)
        await session.put_result(SKYMAP, is_final=True)
        await session.report_failure("it broke with scan token", log_tail="a line\nscan token")
    await reader.until(lambda received: len(received) == 3)
    progress, result, failure = reader.received()
    assert progress.content == BODY
    assert repr(result.content) == repr({"skyscan_result": SKYMAP, "is_final": True})
    assert failure.content == {"reason": "it broke with ***", "log_tail": "a line\n***"}
    assert {one.token for one in reader.received()} == {"scan token"}
    assert [one.sequence for one in reader.received()] == [0, 1, 2]
    assert {message.delivery_mode for message in reader.messages} == {aio_pika.DeliveryMode.PERSISTENT}
    assert list((settings.folder).glob("*.message")) == []


async def test_a_folder_belongs_to_one_session(rest_settings: SessionSettings) -> None:
    async with AsyncScannerSession(rest_settings):
        with pytest.raises(SettingsError, match="another session"):
            AsyncScannerSession(rest_settings)
    await AsyncScannerSession(rest_settings).close()


async def test_the_blocking_form_says_the_same(settings: SessionSettings, reader: Reader) -> None:
    def scan() -> int:
        with ScannerSession(settings) as session:
            assert session.event() == {"an": "event"}
            n_workers = session.wait_for_workers(poll_s=0.1, timeout_s=10)
            session.report_progress(**BODY)
            assert session.flush(20)
            session.put_result(SKYMAP, is_final=True)
            return n_workers

    assert await asyncio.to_thread(scan) == 1
    await reader.until(lambda received: len(received) == 2)
    assert [one.kind for one in reader.received()] == ["progress", "result"]


async def test_every_result_arrives_though_the_connection_is_cut_in_mid_publish(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    cuts, results = 8, 40
    async with AsyncScannerSession(settings) as session:
        for number in range(results):
            if number % (results // cuts) == 0:
                proxy.cut_after_bytes = 3000 + 7000 * (number % 3)  # in the head or in the middle of a message
            await session.put_result(numbered(number, 7000), is_final=number == results - 1)
            await session.report_progress({"number": number})
    await reader.until(lambda received: received and received[-1].content.get("progress") == {"number": results - 1})
    received = reader.received()
    numbers = [one.content["skyscan_result"]["number"] for one in received if one.kind == "result"]
    assert proxy.connections > 2
    assert list(dict.fromkeys(numbers)) == list(range(results))
    by_sequence = {one.sequence: one.content for one in received}
    assert all(one.content == by_sequence[one.sequence] for one in received)
    assert [one.content["progress"]["number"] for one in received if one.kind == "progress"][-1] == results - 1


async def test_a_connection_that_died_without_a_word_is_replaced(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    async with AsyncScannerSession(dataclasses.replace(settings, bus_url=f"{settings.bus_url}?heartbeat=1")) as session:
        await session.put_result(numbered(0), is_final=False)
        assert await session.flush(20)
        proxy.hold()
        await session.put_result(numbered(1), is_final=True)
        await reader.until(lambda received: len(received) == 2)
    assert proxy.connections == 2


async def test_while_the_bus_is_away_the_newest_progress_and_all_results_wait(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    proxy.refuse = True
    async with AsyncScannerSession(settings) as session:
        for number in range(5):
            await session.report_progress({"number": number})
            await session.put_result(numbered(number), is_final=False)
        assert not await session.flush(0.3)
        assert len(list(settings.folder.glob("*-result.message"))) == 5
        proxy.refuse = False
    await reader.until(lambda received: len(received) == 6)
    received = reader.received()
    assert [one.content["skyscan_result"]["number"] for one in received if one.kind == "result"] == list(range(5))
    assert [one.content["progress"]["number"] for one in received if one.kind == "progress"] == [4]
    assert [one.sequence for one in received] == sorted(one.sequence for one in received)


async def test_when_the_bus_stays_away_rest_is_used(settings: SessionSettings, skydriver: FakeSkyDriver, proxy: Proxy) -> None:
    proxy.refuse = True
    skydriver.refuse = {"PUT result": [503, 503], "PATCH manifest": [500]}
    async with AsyncScannerSession(dataclasses.replace(settings, bus_patience_s=0.2)) as session:
        await session.put_result(SKYMAP, is_final=True)
        await session.report_progress(**BODY)
    assert repr(skydriver.results) == repr([{"skyscan_result": SKYMAP, "is_final": True}])
    assert skydriver.progress == [BODY]
    producers, numbers = zip(*skydriver.places, strict=True)
    assert len(set(producers)) == 1
    assert numbers == ("0", "0", "0", "1", "1")  # each attempt is the same message


async def test_a_message_with_which_the_connection_is_always_lost_goes_over_rest(
    settings: SessionSettings, reader: Reader, proxy: Proxy, skydriver: FakeSkyDriver
) -> None:
    skymap = {"filler": os.urandom(300_000).hex()}
    proxy.cut_each_after_bytes = 100_000
    async with AsyncScannerSession(settings) as session:
        await session.put_result(skymap, is_final=True)
        await session.report_progress(**BODY)
        assert await session.flush(30)
    assert skydriver.results == [{"skyscan_result": skymap, "is_final": True}]


async def test_a_message_that_no_queue_takes_goes_over_rest(
    settings: SessionSettings, bus: object, skydriver: FakeSkyDriver
) -> None:
    async with AsyncScannerSession(settings) as session:
        await session.put_result({}, is_final=True)
    assert skydriver.results == [{"skyscan_result": {}, "is_final": True}]


async def test_what_is_too_large_for_the_bus_goes_over_rest(
    settings: SessionSettings, reader: Reader, skydriver: FakeSkyDriver
) -> None:
    skymap = {"filler": "x" * protocol.MAX_CONTENT_BYTES}
    async with AsyncScannerSession(settings) as session:
        await session.put_result(skymap, is_final=True)
        await session.report_progress(**BODY)
    await reader.until(lambda received: len(received) == 1)
    assert [one.kind for one in reader.received()] == ["progress"]
    assert skydriver.results == [{"skyscan_result": skymap, "is_final": True}]


async def test_parts_of_reports_that_wait_are_kept_until_newer_ones_replace_them(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    proxy.refuse = True
    async with AsyncScannerSession(settings) as session:
        await session.report_progress(event_metadata={"run_id": 1}, scan_metadata={"position_variations": 1})
        await session.report_progress({"summary": "one"})
        await session.report_progress({"summary": "two"}, scan_metadata={})
        assert not await session.flush(0.1)
        await session.report_progress(scan_metadata={"position_variations": 2})
        proxy.refuse = False
    await reader.until(lambda received: len(received) == 1)
    [report] = reader.received()
    assert report.content == {
        "progress": {"summary": "two"}, "event_metadata": {"run_id": 1}, "scan_metadata": {"position_variations": 2},
    }  # fmt: skip


async def test_a_new_life_keeps_the_metadata_that_waits_not_the_old_life_s_progress(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    proxy.refuse = True
    session = AsyncScannerSession(settings)
    await session.report_progress(**BODY)
    with pytest.raises(NotDelivered):
        await session.close(0)
    async with AsyncScannerSession(settings) as session:
        await session.report_progress(event_metadata={"run_id": 1})
        proxy.refuse = False
    await reader.until(lambda received: len(received) == 1)
    assert reader.received()[0].content == {name: BODY[name] for name in ("event_metadata", "scan_metadata")}


@pytest.mark.parametrize("reason", ["", "  ", "lone \ud800 surrogate", "a \0 NUL"])
async def test_a_failure_is_told_whatever_its_text_is(settings: SessionSettings, reader: Reader, reason: str) -> None:
    async with AsyncScannerSession(settings) as session:
        await session.report_failure(reason, log_tail=f"{reason}\0" + "\x1b\ud800" * 100_000)
    await reader.until(lambda received: len(received) == 1)
    content = reader.received()[0].content
    protocol.check_content(protocol.FAILURE, content)
    assert content["reason"].strip()
    assert len(content["log_tail"]) > 4_000
    assert "\0" not in json.dumps(content, ensure_ascii=False)


async def test_a_partial_result_that_a_proxy_finds_too_large_blocks_nothing(
    rest_settings: SessionSettings, skydriver: FakeSkyDriver
) -> None:
    skydriver.refuse = {"PUT result": [413]}
    session = AsyncScannerSession(rest_settings)
    await session.put_result({"large": 1}, is_final=False)
    await session.put_result({"small": 1}, is_final=True)
    with pytest.raises(NotDelivered, match=r"result \(PUT result: HTTP 413\)"):
        await session.close()
    assert [one["skyscan_result"] for one in skydriver.results] == [{"small": 1}]


async def test_closing_again_does_nothing(settings: SessionSettings, reader: Reader, proxy: Proxy) -> None:
    async with AsyncScannerSession(settings) as session:
        await session.put_result({}, is_final=True)
        await asyncio.gather(session.close(), session.close())
    await session.close()

    def blocking() -> None:
        with ScannerSession(settings) as session:
            session.close()

    await asyncio.to_thread(blocking)
    proxy.refuse = True
    session = AsyncScannerSession(settings)
    await session.put_result({}, is_final=True)
    with pytest.raises(NotDelivered):
        await session.close(0)
    await session.close()
    with pytest.raises(ScannerError, match="closed"):
        await session.put_result({}, is_final=True)


@pytest.mark.parametrize("what", ["failure", "inherited"])
async def test_a_failure_and_an_inherited_final_result_are_waited_for(
    settings: SessionSettings, reader: Reader, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(engine, "_SHORT_RETRY_S", 0.1)
    proxy.refuse = True
    if what == "inherited":
        earlier = AsyncScannerSession(settings)
        await earlier.put_result({}, is_final=True)
        with pytest.raises(NotDelivered):
            await earlier.close(0)
    session = AsyncScannerSession(settings)
    if what == "failure":
        await session.report_failure("it broke")
    closing = asyncio.create_task(session.close())
    done, _ = await asyncio.wait([closing], timeout=1.0)
    assert not done  # longer than the short patience
    proxy.refuse = False
    await closing
    await reader.until(lambda received: len(received) == 1)


async def test_what_comes_while_the_session_closes_is_delivered_or_named_or_refused(
    rest_settings: SessionSettings, skydriver: FakeSkyDriver
) -> None:
    session = AsyncScannerSession(rest_settings)
    taken = 0

    async def put() -> None:
        nonlocal taken
        with contextlib.suppress(ScannerError):
            while True:
                await session.put_result({"number": taken}, is_final=False)
                taken += 1

    putting = asyncio.create_task(put())
    await until(lambda: _has(skydriver.results))
    left = 0
    try:
        await session.close(0.2)
    except NotDelivered as problem:
        left = len(problem.left)
    await putting
    assert {one["skyscan_result"]["number"] for one in skydriver.results} <= set(range(taken))
    assert len(skydriver.results) + left >= taken  # one may have arrived whose answer was not waited for
    assert len(list(rest_settings.folder.glob("*.message"))) == left


async def _has(things: list[Any]) -> bool:
    return bool(things)


_INTERRUPTED = """
import os, signal
from skydriver_scanner import ScannerError, ScannerSession, spool
session = ScannerSession.from_env()
write = spool.Spool._write
def interrupted(self, entry, plain):
    spool.Spool._write = write
    os.kill(os.getpid(), signal.SIGUSR1)
    return write(self, entry, plain)
def handle(*_):
    session.report_failure("stopped")
    for wait in (session.close, lambda: session.flush(60)):
        try:
            wait()
        except ScannerError:
            print("refused", flush=True)
signal.signal(signal.SIGUSR1, handle)
spool.Spool._write = interrupted
session.put_result({"number": 1}, is_final=True)
session.close()
print("closed", flush=True)
"""


async def test_a_signal_handler_that_struck_in_the_midst_of_a_result_may_not_wait_for_it(
    settings: SessionSettings, reader: Reader
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _INTERRUPTED, stdout=asyncio.subprocess.PIPE, env={**os.environ, **_environment(settings)}
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert said == b"refused\nrefused\nclosed\n"
    await reader.until(lambda received: {one.kind for one in received} == {"result", "failure"})


async def test_a_result_that_is_gone_from_the_spool_is_named(settings: SessionSettings, proxy: Proxy, reader: Reader) -> None:
    proxy.refuse = True
    session = AsyncScannerSession(settings)
    await session.put_result(numbered(1), is_final=True)
    [path] = settings.folder.glob("*.message")
    path.unlink()
    proxy.refuse = False
    assert not await session.flush(20)
    with pytest.raises(NotDelivered, match=r"final result \(gone from disk\)"):
        await session.close()


_FORKED = """
import os, sys
from skydriver_scanner import ScannerError, ScannerSession
session = ScannerSession.from_env()
session.put_result({"number": 1}, is_final=True)
child = os.fork()
if child == 0:
    try:
        session.put_result({"number": 2}, is_final=True)
    except ScannerError:
        session.close()
        print("child", flush=True)
        sys.stdin.read()
        os._exit(0)
    os._exit(1)
session.close()
ScannerSession.from_env().close()  # the folder is free, though the child lives
print("parent", flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""


async def test_a_forked_child_neither_hangs_nor_keeps_the_folder(settings: SessionSettings, reader: Reader) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FORKED, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **_environment(settings)},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert {await process.stdout.readline(), await process.stdout.readline()} == {b"child\n", b"parent\n"}
        await process.communicate(b"")
    assert process.returncode == 0
    await reader.until(lambda received: len(received) == 1)


_FORKED_AND_LEFT = """
import gc, os, sys
from skydriver_scanner import ScannerSession
session = ScannerSession.from_env()
session.put_result({"number": 1}, is_final=False)
assert session.flush(60)
session.event()  # a second connection, which is kept
child = os.fork()
if child == 0:
    del session
    gc.collect()
    sys.exit(0)  # with all that an orderly end finalises
assert os.waitpid(child, 0)[1] == 0
session.put_result({"number": 2}, is_final=True)
assert session.flush(60)
session.event()
session.close()
"""


async def test_a_child_that_ends_in_order_leaves_the_parent_its_connections(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", _FORKED_AND_LEFT, env={**os.environ, **_environment(settings)}
    )
    async with asyncio.timeout(90):
        assert await process.wait() == 0
    await reader.until(lambda received: len(received) == 2)
    assert proxy.connections == 1


async def test_a_session_without_a_bus_uses_rest(rest_settings: SessionSettings, skydriver: FakeSkyDriver) -> None:
    async with AsyncScannerSession(rest_settings) as session:
        await session.report_progress(**BODY)
        await session.put_result({}, is_final=True)
    assert skydriver.progress == [BODY]
    assert skydriver.results == [{"skyscan_result": {}, "is_final": True}]


async def test_what_is_not_delivered_is_named_and_sent_by_the_next_session(
    settings: SessionSettings, reader: Reader, proxy: Proxy, skydriver: FakeSkyDriver
) -> None:
    proxy.refuse = True
    session = AsyncScannerSession(settings)
    await session.put_result(SKYMAP, is_final=True)
    await session.report_progress(**BODY)
    with pytest.raises(NotDelivered, match="final result, progress") as caught:
        await session.close(timeout_s=0.3)
    assert all(one.path is not None and one.path.exists() for one in caught.value.left)
    assert "scan token" not in "".join(path.read_text() for path in settings.folder.iterdir())
    proxy.refuse = False
    async with AsyncScannerSession(settings) as session:
        await session.report_failure("a later life")
    await reader.until(lambda received: len(received) == 3)
    old, last, new = reader.received()
    assert (old.kind, old.sequence, last.kind, last.sequence) == ("result", 0, "progress", 1)
    assert old.producer == last.producer != new.producer


def _environment(settings: SessionSettings) -> dict[str, str]:
    return {
        "SKYSCAN_SKYDRIVER_SCAN_ID": settings.scan_id,
        "SKYSCAN_SKYDRIVER_ADDRESS": settings.address,
        "SKYSCAN_SKYDRIVER_AUTH": settings.token,
        "SKYSCAN_SKYDRIVER_BUS_URL": settings.bus_url or "",
        "SKYSCAN_SKYDRIVER_SPOOL_DIR": str(settings.spool_dir),
    }


_KILLED = """
import sys
from skydriver_scanner import ScannerSession
session = ScannerSession.from_env()
for number in range(3):
    session.put_result({"number": number}, is_final=number == 2)
print("taken", flush=True)
sys.stdin.read()
"""


async def test_results_outlive_a_killed_scanner(settings: SessionSettings, reader: Reader, proxy: Proxy) -> None:
    proxy.refuse = True
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **_environment(settings)},
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"taken\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    proxy.refuse = False
    await AsyncScannerSession(settings).close()
    await reader.until(lambda received: len(received) == 3)
    assert [one.content["skyscan_result"]["number"] for one in reader.received()] == [0, 1, 2]


async def test_what_is_left_can_be_delivered_from_the_command_line(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    async def deliver(**changes: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "skydriver_scanner", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **_environment(settings), **changes},
        )  # fmt: skip
        output, errors = await process.communicate()
        return process.returncode, (output + errors).decode()

    proxy.refuse = True
    session = AsyncScannerSession(settings)
    await session.put_result(SKYMAP, is_final=True)
    with pytest.raises(NotDelivered):
        await session.close(0)
    proxy.refuse = False
    code, text = await deliver()
    assert code == 0, text
    assert "nothing left to deliver" in text
    await reader.until(lambda received: len(received) == 1)
    code, text = await deliver(SKYSCAN_SKYDRIVER_AUTH="")
    assert code == 2
    assert "SKYSCAN_SKYDRIVER_AUTH: required" in text


async def test_a_full_spool_takes_final_results_and_failures_and_a_partial_one_in_place_of_an_older_one(
    settings: SessionSettings, reader: Reader, proxy: Proxy
) -> None:
    proxy.refuse = True
    async with AsyncScannerSession(dataclasses.replace(settings, spool_max_bytes=10_000)) as session:
        await session.put_result(numbered(0, 8000), is_final=False)
        await session.put_result(numbered(1, 8000), is_final=False)
        with pytest.raises(SpoolFull, match="was not accepted"):
            await session.put_result(numbered(9, 12_000), is_final=False)
        await session.put_result(numbered(2, 8000), is_final=True)
        await session.report_failure("…")
        await session.report_progress({"number": 3})
        proxy.refuse = False
    await reader.until(lambda received: len(received) == 4)
    assert [one.kind for one in reader.received()] == ["result", "result", "failure", "progress"]
    assert [one.content["skyscan_result"]["number"] for one in reader.received()[:2]] == [1, 2]


async def test_what_skydriver_refuses_for_good_is_set_aside_and_named(
    rest_settings: SessionSettings, skydriver: FakeSkyDriver
) -> None:
    skydriver.refuse = {"PUT result": [400], "PATCH manifest": [422]}
    session = AsyncScannerSession(rest_settings)
    await session.report_progress(**BODY)
    assert await session.flush(20)
    await session.put_result({"bad": 1}, is_final=False)
    await session.put_result({"good": 1}, is_final=True)
    assert await session.flush(20)  # a partial result that was refused decides nothing
    assert [(one.is_final, one.why) for one in session.left()] == [(False, "PUT result: HTTP 400")]
    with pytest.raises(NotDelivered, match=r"result \(PUT result: HTTP 400\)") as caught:
        await session.close()
    assert [one.is_final for one in caught.value.left] == [False]
    assert [one["skyscan_result"] for one in skydriver.results] == [{"good": 1}]


async def test_a_final_result_that_was_refused_is_not_taken_for_delivered(
    rest_settings: SessionSettings, skydriver: FakeSkyDriver
) -> None:
    skydriver.refuse = {"PUT result": [400]}
    session = AsyncScannerSession(rest_settings)
    await session.put_result({"bad": 1}, is_final=True)
    assert not await session.flush(20)
    with pytest.raises(NotDelivered, match=r"final result \(PUT result: HTTP 400\)"):
        await session.close()


async def test_what_is_no_json_is_refused_at_once(rest_settings: SessionSettings) -> None:
    async with AsyncScannerSession(rest_settings) as session:
        with pytest.raises(MessageRejected, match="not valid JSON"):
            await session.report_progress({"summary": float("nan")})
        with pytest.raises(MessageRejected, match="not valid JSON"):
            await session.put_result({"x": object()}, is_final=False)
