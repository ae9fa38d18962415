"""Wires the dispatcher together."""

import os
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from skydriver_common.auth import TokenSigner
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.foundation import open_foundation
from skydriver_common.runtime.service import Service, StartupProblem, run
from skydriver_dispatcher import consumers
from skydriver_dispatcher.adapters.local import SANDBOX_SCANNER, LocalLauncher
from skydriver_dispatcher.bus_environment import bus_environment
from skydriver_dispatcher.launching import Launching
from skydriver_dispatcher.scanner_environment import scanner_environment
from skydriver_dispatcher.settings import DispatcherSettings
from skydriver_dispatcher.usecases import LAUNCH, RELAUNCH, STOP, UseCases
from skydriver_dispatcher.watchdog import Watchdog

_TOKEN_LIFE = timedelta(days=30)
"""A scanner's token is fixed for the scan and must outlive it (scanner contract 1)."""
_IDLE_S = 30.0


def main() -> None:
    """Run the service until it is told to stop."""
    settings = DispatcherSettings.load()

    async def build(service: Service) -> None:
        try:
            settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            signer = TokenSigner.from_file(
                settings.scan_token_key_file, issuer=settings.auth_issuer, audience=settings.auth_audience
            )
        except OSError as error:
            raise StartupProblem(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise StartupProblem(f"SKYDRIVER_SCAN_TOKEN_KEY_FILE: {error}") from error
        foundation = await open_foundation(service, settings)
        launcher = LocalLauncher(
            settings.work_dir.resolve(),
            partial(_environment, settings, signer),
            command=settings.scanner_words or SANDBOX_SCANNER,
        )
        service.stack.push_async_callback(launcher.close)
        launching = Launching(
            foundation.pool, foundation.uow, foundation.schedule, launcher,
            interval=settings.low_priority_interval, max_attempts=settings.max_attempts,
        )  # fmt: skip
        watchdog = Watchdog(foundation.pool, foundation.uow, foundation.schedule, launcher)
        await watchdog.reconcile()
        foundation.wake_when_due([LAUNCH], service.loop("launch", launching.launch, idle_s=_IDLE_S))
        foundation.wake_when_due([STOP], service.loop("stop", launching.stop, idle_s=_IDLE_S))
        foundation.wake_when_due([RELAUNCH], service.loop("relaunch", watchdog.relaunch, idle_s=_IDLE_S))
        exits = service.loop("exits", watchdog.follow, idle_s=_IDLE_S)
        launcher.on_exit(exits.wake)
        consumers.register(foundation.broker, UseCases(foundation.pool, foundation.uow))
        await foundation.start_consuming()

    run("dispatcher", settings, build)


def _environment(settings: DispatcherSettings, signer: TokenSigner, scan: Scan, folder: Path) -> dict[str, str]:
    environment = scanner_environment(
        scan,
        folder,
        base={
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "PYTHONDONTWRITEBYTECODE") if name in os.environ
        }
        | {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_SCAN")},
        address=settings.public_url,
        token=signer.scan_token(ScanId(scan.scan_id), datetime.now(UTC) + _TOKEN_LIFE),
        intervals={
            "SKYSCAN_PROGRESS_INTERVAL_SEC": settings.scanner_progress_interval_s,
            "SKYSCAN_RESULT_INTERVAL_SEC": settings.scanner_result_interval_s,
            "SKYSCAN_KILL_SWITCH_CHECK_INTERVAL": settings.scanner_kill_switch_interval_s,
        },
    )
    return environment | bus_environment(settings.scanner_bus_url, str(folder / "spool"))
