"""A PgBouncer of the Debian package in front of a database server; what needs it is skipped where it is not installed."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from skydriver_cli.embedded.ports import choose
from tests.support.waiting import until

needs_pgbouncer = pytest.mark.skipif(
    not any(shutil.which("pgbouncer", path=path) for path in (None, "/usr/sbin")),
    reason="NOT RUN: PgBouncer is not installed (the package pgbouncer)",
)


@asynccontextmanager
async def pgbouncer(database_url: str, *, mode: str, pool_size: int = 40) -> AsyncIterator[str]:
    """URL of the same database through a pooler in this mode: ``session``, ``transaction`` or ``statement``."""
    behind = urlsplit(database_url)
    port = choose(["pgbouncer"], {})["pgbouncer"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "users").write_text(f'"{behind.username}" "{behind.password or ""}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={behind.hostname} port={behind.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {folder}/users\npool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 400\n"
            "server_reset_query = DISCARD ALL\n"
        )
        as_somebody = []
        if os.geteuid() == 0:  # it refuses to run as root
            folder.chmod(0o755)
            as_somebody = ["-u", "nobody"]
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                program, *as_somebody, str(folder / "pgbouncer.ini"), stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        try:
            await until(lambda: _listens(port), "PgBouncer listens")
            host = f"{behind.username}:{behind.password}@" if behind.password else f"{behind.username}@"
            yield urlunsplit((behind.scheme, f"{host}127.0.0.1:{port}", behind.path, behind.query, ""))
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
