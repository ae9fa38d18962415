"""Launcher ``local`` after a dispatcher was killed at the worst moment."""

import sys
from pathlib import Path

from skydriver_dispatcher.adapters.local import LocalLauncher
from tests.support.launchers import a_queued_scan


async def test_a_scanner_whose_dispatcher_died_before_it_wrote_down_its_pid_is_found_and_not_started_twice(
    tmp_path: Path,
) -> None:
    def a_launcher() -> LocalLauncher:
        return LocalLauncher(
            tmp_path, lambda _scan, _folder: {}, command=(sys.executable, "-S", "-c", "import time; time.sleep(60)")
        )

    first, second, scan = a_launcher(), a_launcher(), a_queued_scan()
    job = await first.launch(scan)
    await first.close()
    (tmp_path / scan.scan_id / "scanner.pid.json").unlink()
    try:
        assert await second.launch(scan) == job
        assert await second.present() == {scan.scan_id: True}
    finally:
        await second.stop(scan.scan_id)
        await second.close()
