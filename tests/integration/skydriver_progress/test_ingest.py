"""What scanners publish on the bus ends in the decisions that REST makes; what is not as it must be changes nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.log import blobs
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from skydriver_common.model.problems import problems_of
from skydriver_common.model.scan import Scan
from skydriver_ops.eventlog import rebuild
from skydriver_ops.eventlog.verify import verify
from skydriver_progress import messages
from skydriver_scanner import protocol
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.scanner_bus import AUDIENCE, ISSUER, METADATA, a_progress, batch_consumers, size_of


def _has_sequence(n: int, scan: Scan) -> bool:
    return scan.sequence == n


async def _is_sound(rig: Rig) -> None:
    async with rig.store.pool.acquire() as connection:
        assert (await verify(connection)).breaks == []
        assert (await rebuild.check(connection)).differences == []


async def _types(rig: Rig, scan_id: ScanId) -> list[str]:
    rows = await rig.store.pool.fetch("SELECT type FROM event_log WHERE scan_id = $1 ORDER BY version", scan_id)
    return [row["type"].removeprefix("scan.") for row in rows]


async def test_a_scan_from_its_first_report_to_its_last(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    assert 3500 < size_of(a_progress(1)) < 4500
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        for n, encoding in enumerate(protocol.ENCODINGS, 1):
            await rig.bus.send("progress", scan_id, a_progress(n), sequence=n, encoding=encoding)
            await rig.bus.until(scan_id, partial(_has_sequence, n))
        skymap = {"nside-8": {"columns": ["index", "llh"], "data": [[0, 1.5], [1, float("nan")]], "metadata": {"nside": 8}}}
        await rig.bus.send("result", scan_id, {"skyscan_result": {}, "is_final": False}, sequence=4)
        await rig.bus.send("result", scan_id, {"skyscan_result": skymap, "is_final": True}, sequence=5, encoding=protocol.ZSTD)
        await rig.bus.until(scan_id, lambda scan: scan.has_final_result)
        await rig.bus.send("progress", scan_id, a_progress(6, finished=True), sequence=6)
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 6)
    assert scan.progress is not None
    assert scan.progress["processing_stats"]["finished"] is True
    assert scan.event_metadata == METADATA["event_metadata"]
    assert scan.result is not None
    content = await blobs.get(rig.store.pool, scan.result.digest)
    assert content == b'{"nside-8":{"columns":["index","llh"],"data":[[0,1.5],[1,NaN]],"metadata":{"nside":8}}}'
    assert await rig.dead.read(0) == []
    assert (await _types(rig, scan_id)).count("event-metadata-set") == 1  # what is repeated is stored once
    actors = await rig.store.pool.fetch("SELECT DISTINCT actor, command_id FROM event_log WHERE type = 'scan.result-received'")
    assert [tuple(row) for row in actors] == [(f"scan-{scan_id}", "p1:5")]
    await _is_sound(rig)


async def test_swapped_and_duplicated_reports_leave_the_newest(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    for n in (1, 3, 2, 3, 5, 4, 1):
        await rig.bus.send("progress", scan_id, a_progress(n), sequence=n)
    for n in (7, 6):
        skymap = {"nside-8": {"data": [n]}}
        await rig.bus.send("result", scan_id, {"skyscan_result": skymap, "is_final": False}, sequence=n)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 5 and scan.result is not None and scan.result.sequence == 7)
        await rig.bus.send("progress", scan_id, a_progress(4), sequence=4)  # later still: passed over
        await rig.bus.send("progress", scan_id, a_progress(8), sequence=8)
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 8)
    assert scan.result is not None
    assert scan.result.sequence == 7
    assert await rig.dead.read(0) == []
    await _is_sound(rig)


async def test_of_reports_that_wait_together_the_newest_is_written_or_all_as_it_is_set(rig: Rig) -> None:
    one, other = await rig.store.a_scan(), await rig.store.a_scan()
    for n in range(1, 51):
        await rig.bus.send("progress", one, a_progress(n), sequence=n)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.until(one, lambda scan: scan.sequence == 50)
    assert (await _types(rig, one)).count("progress-reported") < 10
    for n in range(1, 51):
        await rig.bus.send("progress", other, a_progress(n), sequence=n)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, coalesces=False):
        await rig.bus.until(other, lambda scan: scan.sequence == 50)
    assert (await _types(rig, other)).count("progress-reported") == 50
    await _is_sound(rig)


async def test_metadata_of_a_superseded_report_counts(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
    progress_alone = {"progress": a_progress(2)["progress"]}
    await rig.bus.send("progress", scan_id, progress_alone, sequence=2)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 2)
    assert scan.event_metadata == METADATA["event_metadata"]
    assert scan.scan_metadata == METADATA["scan_metadata"]


async def test_messages_that_are_not_as_they_must_be_change_nothing_and_say_why(rig: Rig, tmp_path: Path) -> None:
    key, other_key = tmp_path / "key.pem", tmp_path / "other" / "key.pem"
    await asyncio.to_thread(ensure_key, other_key)
    strangers = [
        TokenSigner.from_file(key, issuer=ISSUER, audience="another"),
        TokenSigner.from_file(key, issuer="another", audience=AUDIENCE),
        TokenSigner.from_file(other_key, issuer=ISSUER, audience=AUDIENCE),
    ]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    scan_id, other = await rig.store.a_scan(), await rig.store.a_scan()
    foreign = rig.bus.token(other)
    good = protocol.pack("progress", scan_id, a_progress(1), token=rig.bus.token(scan_id), producer="p1", sequence=1)
    bad_field = a_progress(1)
    bad_field["progress"]["summary"] = 7
    unstorable = a_progress(1)
    unstorable["progress"]["tallies"] = {"nul": "\0"}
    deep = b'{"scan_metadata":{"a":' + b"[" * 400 + b"]" * 400 + b"}}"
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.publish(good, body=b"no json")
        await rig.bus.publish(good, body=b"[]")
        await rig.bus.publish(good, body=deep)
        await rig.bus.send("progress", scan_id, bad_field, sequence=1)
        await rig.bus.send("progress", scan_id, unstorable, sequence=1)
        await rig.bus.publish(good, content_encoding="gzip")
        await rig.bus.publish(good, headers={"sequence": "1"})
        await rig.bus.publish(good, headers={"schema_version": "2.0"})
        await rig.bus.publish(good, headers={"token": None})
        await rig.bus.publish(good, headers={"token": "a.b.c"})
        await rig.bus.publish(good, headers={"token": rig.bus.token(scan_id, life=timedelta(hours=-1))})
        await rig.bus.publish(good, headers={"token": foreign})
        await rig.bus.publish(good, headers={"token": rig.bus.signer.system_token()})
        for stranger in strangers:
            await rig.bus.publish(good, headers={"token": stranger.scan_token(ScanId(scan_id), tomorrow)})
        await rig.bus.publish(good, body=b" " * 300_000)
        await rig.bus.send("progress", ScanId("18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c"), a_progress(1), sequence=1)
        await rig.bus.publish(good, headers={"schema_version": "1.7", "of": "the future"})  # a newer minor version
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        reasons = await rig.dead.reasons(18)
    text = "\n".join(reasons)
    for said in (
        "progress.summary: must be a string", "NUL", "levels deep", "cannot be decompressed", "header sequence", "must be 1.x",
        "header token: required", "invalid token: expired", "token-foreign", "too-large", "scan-unknown",
    ):  # fmt: skip
        assert said in text, said
    assert text.count("token-foreign") == 2
    assert text.count("token-invalid") == 5
    told = await rig.store.pool.fetch("SELECT data FROM event_log WHERE type = 'scan.report-refused' AND scan_id = $1", scan_id)
    assert len(told) == len(scan.scanner.refusals) == 4  # one for each code, however many there are
    assert await _types(rig, other) == ["requested"]
    strange = await rig.store.pool.fetch("SELECT data FROM event_log WHERE scan_id = 'system'")
    assert len(strange) == 1
    await _is_sound(rig)


async def test_metadata_is_put_once_as_over_rest(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    other = {"event_metadata": METADATA["event_metadata"] | {"run_id": 9}}
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        await rig.bus.send("progress", scan_id, a_progress(2, **other), sequence=2)
        assert "event_metadata: already set" in (await rig.dead.reasons(1))[0]
        await rig.bus.send("progress", scan_id, a_progress(3), sequence=3)
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 3)
    assert "reports-refused" in {problem["code"] for problem in problems_of(scan)}


async def test_a_final_result_stays_and_after_the_end_the_token_is_good_for_a_while(rig: Rig) -> None:
    scan_id, deleted = await rig.store.a_scan(), await rig.store.a_scan()
    await rig.store.append("dispatcher", deleted, ev.ScanDeleted())
    final = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.send("result", scan_id, final, sequence=1)
        await rig.bus.until(scan_id, lambda scan: scan.has_final_result)
        await rig.bus.send("result", scan_id, final | {"is_final": False}, sequence=2)
        await rig.bus.send("progress", scan_id, a_progress(3, finished=True), sequence=3)  # the last report comes after it
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 3)
        await rig.bus.send("progress", deleted, a_progress(1), sequence=1)  # a deleted scan's reports are taken politely
        await rig.bus.until(deleted, lambda scan: scan.sequence == 1)
        assert await rig.dead.read(0) == []
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, token_grace_s=0.0):
        await rig.bus.send("progress", scan_id, a_progress(4, finished=True), sequence=4)  # the last one has been
        await rig.bus.send("result", scan_id, final, sequence=1)  # a replay
        await rig.bus.send("progress", deleted, a_progress(2), sequence=2)
        assert {reason.partition(":")[0] for reason in await rig.dead.reasons(3)} == {"token-ended"}
    scan = await rig.bus.scan(scan_id)
    assert scan.sequence == 3
    assert scan.has_final_result
    assert "report-refused" in await _types(rig, scan_id)


async def test_the_last_report_that_waited_for_us_longer_than_its_token_lived_is_taken(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    final = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, token_grace_s=0.0):
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        await rig.bus.send("result", scan_id, final, sequence=2)
        await rig.bus.until(scan_id, lambda scan: scan.has_final_result)
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)  # a replay
        await rig.bus.send("progress", scan_id, a_progress(9), sequence=9, producer="another")
        assert {reason.partition(":")[0] for reason in await rig.dead.reasons(2)} == {"token-ended"}
        await rig.bus.send("progress", scan_id, a_progress(3, finished=True), sequence=3)
        await rig.bus.until(scan_id, lambda scan: scan.sequence == 3)


async def test_what_a_scan_that_failed_had_sent_in_time_is_taken_however_late(rig: Rig) -> None:
    heard, unheard, replayed = [await rig.store.a_scan() for _ in range(3)]
    final = {"skyscan_result": {"nside-8": {"data": [1]}}, "is_final": True}
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, token_grace_s=0.0):
        for scan_id in (heard, replayed):
            await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
            await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        for scan_id in (heard, unheard, replayed):
            await rig.store.append("dispatcher", scan_id, ev.ScannerFailed(reason="it ended without a final result"))
        await rig.bus.send("progress", replayed, a_progress(1), sequence=1)
        await rig.bus.send("result", replayed, final, sequence=9, producer="another")
        assert {reason.partition(":")[0] for reason in await rig.dead.reasons(2)} == {"token-ended"}
        await rig.bus.send("result", heard, final, sequence=2)
        await rig.bus.send("result", unheard, final, sequence=0)
        for scan_id in (heard, unheard):
            await rig.bus.until(scan_id, lambda scan: scan.has_final_result)
        assert await rig.dead.read(0) == []
    await _is_sound(rig)


async def test_a_final_result_with_a_lower_number_than_a_partial_one_ends_the_scan(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.send("result", scan_id, {"skyscan_result": {"a": {"data": [2]}}, "is_final": False}, sequence=11)
        await rig.bus.until(scan_id, lambda scan: scan.result is not None)
        await rig.bus.send("result", scan_id, {"skyscan_result": {"a": {"data": [1]}}, "is_final": True}, sequence=10)
        await rig.bus.until(scan_id, lambda scan: scan.has_final_result)


@pytest.mark.parametrize("coalesces", [True, False])
async def test_the_report_that_says_finished_stands_whatever_waits_behind_it(rig: Rig, coalesces: bool) -> None:
    scan_id = await rig.store.a_scan()
    for n, finished in ((1, False), (2, True), (3, False), (4, True), (5, False)):
        await rig.bus.send("progress", scan_id, a_progress(n, finished=finished), sequence=n)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks, coalesces=coalesces):
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence >= 4)
    assert scan.sequence == 4
    assert scan.progress is not None
    assert scan.progress["processing_stats"]["finished"] is True


async def test_a_reported_failure_shows_in_the_status_until_another_process_reports(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await rig.bus.send("failure", scan_id, {"reason": "no GCD file", "log_tail": "x" * 100_000}, sequence=2)
        await rig.bus.send("failure", scan_id, {"reason": "no GCD file"}, sequence=2)
        scan = await rig.bus.until(scan_id, lambda scan: scan.scanner.failure != "")
        assert ("scanner-reported-failure", "The scanner server reported a failure: no GCD file") in [
            tuple(problem.values()) for problem in problems_of(scan)
        ]
        assert len(scan.scanner.log_tail) == 16_384
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1, producer="p2")
        await rig.bus.send("progress", scan_id, a_progress(2), sequence=2, producer="p2")
        scan = await rig.bus.until(scan_id, lambda scan: (scan.producer, scan.sequence) == ("p2", 2))
        await rig.bus.send("progress", scan_id, a_progress(9), sequence=9)  # late, of the process before
        await rig.bus.send("progress", scan_id, a_progress(3), sequence=3, producer="p2")
        scan = await rig.bus.until(scan_id, lambda scan: scan.sequence == 3)
    assert scan.producer == "p2"
    assert problems_of(scan) == []
    assert (await _types(rig, scan_id)).count("failure-reported") == 1
    await _is_sound(rig)


async def test_a_bug_that_one_message_meets_stops_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = [await rig.store.a_scan() for _ in range(4)]
    parse = messages.parse

    def broken(envelope: messages.Envelope) -> object:
        if envelope.scan_id == scans[0]:
            raise ZeroDivisionError
        return parse(envelope)

    monkeypatch.setattr(messages, "parse", broken)
    for scan_id in scans:
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        for scan_id in scans[1:]:
            await rig.bus.until(scan_id, lambda scan: scan.sequence == 1)
        [letter] = await rig.dead.read(1)
    assert "ZeroDivisionError" in str(letter.headers["x-reason"])
    assert letter.routing_key == f"progress.{scans[0]}"


async def _let_poison_fail(rig: Rig) -> None:
    """A trigger that fails for one report stands for whatever nobody has thought of."""
    await rig.store.pool.execute(
        """CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF position('poison' IN convert_from(NEW.data, 'UTF8')) > 0 THEN RAISE EXCEPTION 'no' USING ERRCODE = '22000'; END IF;
             RETURN NEW; END $$"""
    )
    await rig.store.pool.execute(
        "CREATE TRIGGER refuse_it BEFORE INSERT ON event_log FOR EACH ROW EXECUTE FUNCTION refuse_it()"
    )


@pytest.mark.usefixtures("no_tracebacks")
async def test_what_was_refused_because_of_one_that_breaks_the_transaction_is_taken_after_all(rig: Rig) -> None:
    scan_id = await rig.store.a_scan()
    await _let_poison_fail(rig)
    poison, other = ({"event_metadata": METADATA["event_metadata"] | {"event_type": name}} for name in ("poison", "HESE"))
    await rig.bus.send("progress", scan_id, poison, sequence=1, producer="p1")
    await rig.bus.send("progress", scan_id, other, sequence=1, producer="p2")
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        scan = await rig.bus.until(scan_id, lambda scan: scan.event_metadata is not None)
        [letter] = await rig.dead.read(1)
    assert scan.event_metadata == other["event_metadata"]
    assert str(letter.headers["x-reason"]).startswith("failed:")


@pytest.mark.usefixtures("no_tracebacks")
async def test_one_that_breaks_the_transaction_does_not_take_others_with_it(rig: Rig) -> None:
    scans = [await rig.store.a_scan() for _ in range(8)]
    await _let_poison_fail(rig)
    poison = a_progress(1)
    poison["progress"]["summary"] = "poison"
    for scan_id in scans[:-1]:
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
    await rig.bus.send("progress", scans[-1], poison, sequence=1)
    async with batch_consumers(rig.amqp_url, rig.store, rig.jwks):
        await asyncio.gather(*(rig.bus.until(scan_id, lambda scan: scan.sequence == 1) for scan_id in scans[:-1]))
        [letter] = await rig.dead.read(1)
    assert letter.routing_key == f"progress.{scans[-1]}"
    assert "x-traceback" in letter.headers
    assert (await rig.bus.scan(scans[-1])).progress is None
