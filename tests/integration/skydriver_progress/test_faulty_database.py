"""What scanners send, and errors of the database: at each place it waits, and only what its own values are to blame for goes."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from skydriver_common.bus import topology
from skydriver_common.model.ids import ScanId
from skydriver_progress.adapters import batch_consumer
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.faulty_database import BLOB, DEFECTS, OF_DATA, OUTAGES, SYSTEM, faulty_database
from tests.support.scanner_bus import a_progress, batch_consumers
from tests.support.waiting import until

_PLACES = ("load", "write", "commit")
_TOKEN = "no token"


class Outcomes(Counter[str]):
    """What became of messages."""

    def count(self, _: str, outcome: str, __: float) -> None:
        """Called by a batch consumer."""
        self[outcome] += 1

    async def until(self, outcome: str, count: int) -> None:
        """Wait until so many ended so."""

        async def there_are() -> bool:
            return self[outcome] >= count

        await until(there_are)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waiting batches are tried again at once, and no traceback is drawn."""
    monkeypatch.setattr(batch_consumer, "pause_after", lambda *_: 0.001)
    with capture_logs():
        yield


def _a_skymap(number: int) -> dict[str, Any]:
    return {"skyscan_result": {"nside-8": {"columns": ["n"], "data": [[number]]}}, "is_final": False}


@pytest.mark.usefixtures("no_pauses")
async def test_reports_and_refusals_wait_for_the_database_and_no_lane_is_lost(
    rig: Rig, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often in a row than the broker would deliver: what waits is held, and not given back."""
    scan_id = await rig.store.a_scan()
    outcomes, number, refused = Outcomes(), 0, 0
    async with (
        batch_consumers(rig.amqp_url, rig.store, rig.jwks, settled=outcomes.count),
        faulty_database(monkeypatch) as database,
    ):
        for code in OUTAGES + DEFECTS:
            for place in _PLACES:
                times = topology.DELIVERY_LIMIT + 5 if (code, place) == ("25006", "write") else 2
                database.fails(place, code, times)
                number += 1
                await rig.bus.send("progress", scan_id, a_progress(number), sequence=number)
                await outcomes.until("done", number)
                assert database.met == times, (code, place)
            database.fails("load", code, 1)
            refused += 1
            await rig.bus.send("progress", scan_id, a_progress(number), sequence=number, token=_TOKEN)
            await outcomes.until("buried", refused)
            assert database.met == 1, code
        assert (await rig.bus.scan(scan_id)).sequence == number
    assert outcomes == {"done": number, "buried": refused}
    reasons = await rig.dead.reasons(refused)
    assert not any("failed" in reason for reason in reasons)
    assert sorted(sessions) == sorted(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)


@pytest.mark.usefixtures("no_pauses")
async def test_skymaps_and_what_belongs_to_no_scan_wait_for_the_database(
    rig: Rig, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await rig.store.a_scan()
    outcomes, number = Outcomes(), 0
    async with (
        batch_consumers(rig.amqp_url, rig.store, rig.jwks, settled=outcomes.count),
        faulty_database(monkeypatch) as database,
    ):
        for code in OUTAGES + DEFECTS:
            for place in (BLOB, *_PLACES):
                database.fails(place, code, 2)
                number += 1
                await rig.bus.send("result", scan_id, _a_skymap(number), sequence=number)
                await outcomes.until("done", number)
                assert database.met == 2, (code, place)
        strangers = (("progress", a_progress(1), "25006"), ("result", _a_skymap(1), "42501"))
        for refused, (kind, content, code) in enumerate(strangers, 1):
            database.fails(SYSTEM, code, 2)
            await rig.bus.send(kind, ScanId("f" * 32), content, sequence=1, token=_TOKEN)
            await outcomes.until("buried", refused)
            assert database.met == 2, code
    received = await rig.store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'scan.result-received'")
    told = await rig.store.pool.fetchval("SELECT count(*) FROM event_log WHERE type = 'system.strange-report-refused'")
    assert (received, told) == (number, len(strangers))
    assert not any("failed" in reason for reason in await rig.dead.reasons(len(strangers)))
    assert len(sessions) == len(topology.SCANNER_KINDS)


@pytest.mark.usefixtures("no_pauses")
async def test_values_that_the_database_refuses_go_with_their_traceback_and_hold_up_nobody(
    rig: Rig, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = await rig.store.a_scan()
    outcomes, number = Outcomes(), 0
    async with (
        batch_consumers(rig.amqp_url, rig.store, rig.jwks, settled=outcomes.count),
        faulty_database(monkeypatch) as database,
    ):
        for code in OF_DATA:
            for place in (BLOB, *_PLACES):
                database.fails(place, code, 1000)
                number += 1
                await rig.bus.send("result", scan_id, _a_skymap(number), sequence=number)
                await outcomes.until("buried", number)
                database.left = 0
        await rig.bus.send("progress", scan_id, a_progress(1), sequence=1)
        await outcomes.until("done", 1)
    letters = await rig.dead.read(number)
    assert all(str(letter.headers["x-reason"]).startswith("failed: ") for letter in letters)
    assert all(letter.headers["x-traceback"] for letter in letters)
    assert len(sessions) == len(topology.SCANNER_KINDS)


@pytest.mark.usefixtures("no_pauses")
async def test_a_skymap_that_cannot_be_stored_again_goes_alone_and_its_batch_is_decided(
    rig: Rig, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction fails for want of the database, the skymap is stored once more, and its values are refused then."""
    scan_id = await rig.store.a_scan()
    outcomes = Outcomes()
    async with (
        batch_consumers(rig.amqp_url, rig.store, rig.jwks, settled=outcomes.count),
        faulty_database(monkeypatch) as database,
    ):
        for number, code in enumerate(OF_DATA, 1):
            database.fails("commit", "25006", 1, then=(BLOB, code, 1))
            await rig.bus.send("result", scan_id, _a_skymap(number), sequence=number)
            await outcomes.until("buried", number)
            assert database.met == 2, code
        await rig.bus.send("result", scan_id, _a_skymap(0), sequence=len(OF_DATA) + 1)
        await outcomes.until("done", 1)
    letters = await rig.dead.read(len(OF_DATA))
    assert all(str(letter.headers["x-reason"]).startswith("failed: ") for letter in letters)
    assert sorted(sessions) == sorted(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)
