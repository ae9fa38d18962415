"""A scan that sends much that is refused does not fill the dead letters."""

from skydriver_progress.refusals import MAX_KEPT
from tests.integration.skydriver_progress.conftest import Rig
from tests.support.scanner_bus import a_progress, lanes


async def test_of_many_refusals_the_first_are_kept_whole_and_other_scans_have_their_own(rig: Rig) -> None:
    first, second = await rig.store.a_scan(), await rig.store.a_scan()
    async with lanes(rig.amqp_url, rig.store, rig.jwks):
        for number in range(MAX_KEPT + 50):
            await rig.bus.send("progress", first, a_progress(number), sequence=number, token="no token")
        await rig.bus.send("progress", second, a_progress(1), sequence=1, token="no token")
        await rig.bus.send("progress", first, a_progress(1), sequence=1)
        await rig.bus.until(first, lambda scan: scan.sequence == 1)
        letters = await rig.dead.read(MAX_KEPT + 1)
    assert sum(letter.headers["x-from-key"] == f"progress.{second}" for letter in letters) == 1
