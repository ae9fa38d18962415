"""`python -m skydriver_sandbox.scanner …`: ends with 0 when done, 2 when refused for good, 1 after a failure that may pass,
128 + the signal's number when stopped.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from functools import partial

import uvloop

from skydriver_sandbox.scanner.credential_delivery import HandoverFailedError
from skydriver_sandbox.scanner.options import Options, read_options
from skydriver_sandbox.scanner.progression import ScanRefusedError
from skydriver_sandbox.scanner.rest_client import CallFailed, RestClient
from skydriver_sandbox.scanner.scan import Scan, ScanFailedError
from skydriver_sandbox.scanner.skydriver_client import SessionClient, SkyDriverClient, stop_on_signal
from skydriver_scanner import SettingsError

log = logging.getLogger("sandbox.scanner")
FAILURES = (ScanRefusedError, ScanFailedError, CallFailed, HandoverFailedError, OSError)


class _StoppedError(Exception):
    """The scan was stopped by a signal, or by SkyDriver."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _Stop:
    """Ends the scan's task and remembers why."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.number: int | None = None

    def __call__(self, number: int) -> None:
        self.number = number
        self._task.cancel()


async def _open_client(options: Options, stack: contextlib.AsyncExitStack) -> SkyDriverClient | None:
    if not options.address:
        return None
    if not options.bus_url:
        return await stack.enter_async_context(RestClient(options.address, options.token, options.scan_id))
    return await stack.enter_async_context(
        SessionClient(
            scan_id=options.scan_id,
            address=options.address,
            token=options.token,
            bus_url=options.bus_url,
            spool_dir=options.spool_dir,
            status_interval_s=options.kill_switch_interval_s,
        )
    )


async def _scan(options: Options) -> None:
    async with contextlib.AsyncExitStack() as stack:
        skydriver = await _open_client(options, stack)
        task = asyncio.create_task(Scan(options, skydriver).run())
        stop = _Stop(task)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        watch: asyncio.Task[None] | None = None
        if skydriver is not None:
            tell = partial(stop, signal.SIGINT)
            watch = asyncio.create_task(stop_on_signal(skydriver, options.kill_switch_interval_s, tell))
        try:
            await task
        except FAILURES as error:
            if skydriver is not None:
                await skydriver.report_failure(str(error))
            raise
        except asyncio.CancelledError:
            raise _StoppedError(128 + (stop.number or signal.SIGTERM)) from None
        finally:
            if watch is not None:
                watch.cancel()


def main() -> int:
    try:
        options = read_options(sys.argv[1:], os.environ)
        level = options.log_level if options.log_level in logging.getLevelNamesMapping() else "INFO"
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
        for noisy in ("aio_pika", "aiormq"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_scan(options))
            return 0
    except _StoppedError as stopped:
        return stopped.exit_code
    except ScanRefusedError as error:
        sys.stderr.write(f"scan refused: {error}\n")
        return 2
    except (*FAILURES, SettingsError) as error:
        sys.stderr.write(f"scan failed: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
