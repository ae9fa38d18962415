"""The example: a scanner that makes its five calls as ever has them done over the bus."""

from examples.existing_scanner import SkyDriverClient
from skydriver_scanner import AsyncScannerSession, SessionSettings
from tests.integration.skydriver_scanner.conftest import Reader
from tests.support.sandbox_parts import SCAN_ID, FakeSkyDriver
from tests.support.waiting import until

BODY = {"progress": {"summary": "…"}, "event_metadata": {"run_id": 1}, "scan_metadata": {"position_variations": 1}}


async def test_the_five_calls_of_the_existing_scanner_work_over_the_bus(
    settings: SessionSettings, reader: Reader, skydriver: FakeSkyDriver
) -> None:
    scan = f"/scan/{SCAN_ID}"
    client = SkyDriverClient(AsyncScannerSession(settings))
    assert await client.request("GET", f"{scan}/manifest") == {"event_i3live_json_dict": {"an": "event"}}
    assert await client.request("PATCH", f"{scan}/manifest", BODY) == {}
    assert (await client.request("GET", f"{scan}/ewms/workforce"))["n_running"] == 1
    assert await client.request("PUT", f"{scan}/result", {"skyscan_result": {}, "is_final": False}) == {}
    status = await client.request("GET", f"{scan}/status")
    assert not status["is_deleted"]
    assert not status["ewms_deactivated"]
    await client.request("PUT", f"{scan}/result", {"skyscan_result": {"nside-1": {}}, "is_final": True})
    await reader.until(lambda received: len(received) == 3)
    assert reader.received()[-1].content == {"skyscan_result": {"nside-1": {}}, "is_final": True}
    await client.request("PATCH", f"{scan}/manifest", BODY)
    await client.close()
    await reader.until(lambda received: len(received) == 4)
    assert [one.kind for one in reader.received()] == ["progress", "result", "result", "progress"]
    assert {call for call in skydriver.calls if not call.startswith("GET")} == set()


async def test_the_kill_switch_of_the_existing_scanner_sees_a_deletion(
    rest_settings: SessionSettings, skydriver: FakeSkyDriver
) -> None:
    skydriver.is_deleted = True
    client = SkyDriverClient(AsyncScannerSession(rest_settings))

    async def is_told() -> bool:
        return bool((await client.request("GET", f"/scan/{SCAN_ID}/status"))["is_deleted"])

    await until(is_told)
    await client.close()
