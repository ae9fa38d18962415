"""`python -m skydriver_sandbox.ewms --port N --data-dir DIR`: serves until SIGTERM or SIGINT, then ends its workers."""

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import sys

import uvloop
from aiohttp import web

from skydriver_sandbox.ewms.app import Api
from skydriver_sandbox.ewms.broker import Broker, BrokerRefusedError
from skydriver_sandbox.ewms.faults import Faults
from skydriver_sandbox.ewms.objects import ObjectStore
from skydriver_sandbox.ewms.phases import Notifier, Phases
from skydriver_sandbox.ewms.pool import Pool
from skydriver_sandbox.ewms.settings import BadSettingError, Settings, read_settings
from skydriver_sandbox.ewms.store import Store
from skydriver_sandbox.ewms.tokens import Issuer, load_key

log = logging.getLogger("sandbox.ewms")


async def _serve(settings: Settings, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    own_url = f"http://127.0.0.1:{port}"
    public_url = settings.public_url or own_url
    faults, notifier = Faults(), Notifier()
    broker = Broker(settings.amqp_url, settings.management_url)
    store = Store(settings.data_dir / "ewms.sqlite")
    await store.open()
    key = await asyncio.to_thread(load_key, settings.data_dir / "keys" / "issuer.pem")
    issuer = Issuer(public_url, key, settings.client_id, settings.client_secret)
    pool = Pool(
        store,
        settings.data_dir / "workers",
        settings.max_local_workers,
        settings.delays,
        faults,
        notifier,
        report_base=f"{own_url}/sandbox/workers",
    )
    await pool.recover()
    api = Api(settings, store, issuer, faults, notifier, pool)
    # No waiting for clients that keep their connections open, nor for one a fault leaves hanging.
    runner = web.AppRunner(api.application(ObjectStore(settings.data_dir / "objects", settings)), shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    log.info("serving on %s", own_url)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(Phases(store, broker, issuer, settings.delays, faults, notifier).run())
            group.create_task(pool.run())
    finally:
        await runner.cleanup()
        await store.close()


async def _until_signal(settings: Settings, listening: socket.socket) -> None:
    task = asyncio.ensure_future(_serve(settings, listening))
    loop = asyncio.get_running_loop()
    is_asked = False

    def stop() -> None:
        nonlocal is_asked
        is_asked = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not is_asked:
            raise


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # One line per request would drown everything else.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    try:
        settings = read_settings(sys.argv[1:], os.environ)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Bound before anything else, and never to more than this machine: a used port is the likeliest trouble.
        with (
            socket.create_server(("127.0.0.1", settings.port)) as listening,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_until_signal(settings, listening))
    except (BadSettingError, BrokerRefusedError, OSError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"sandbox EWMS: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
