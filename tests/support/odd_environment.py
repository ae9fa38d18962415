"""Run tests where users run them: as somebody without rights, detached, in a folder with spaces, with what their shells bring along.

    python -m tests.support.odd_environment [argument of pytest …]

SIGINT ignored (as what a shell starts in the background), no controlling terminal, umask 077, a home that can't be written to, another
time zone and locale, NO_COLOR, a proxy for everything, few file descriptors, and somebody else's servers on the standard ports of
Postgres and RabbitMQ. As root it runs as `nobody`, else as whoever calls.
"""

import contextlib
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/unit", "tests/integration/skydriver_common/test_log_commands.py", "tests/integration/skydriver_common/test_replay.py",
    "tests/integration/skydriver_dispatcher/test_launcher_contract.py", "tests/integration/skydriver_scanner/test_killed.py",
    "tests/integration/skydriver_sandbox/test_scan.py", "tests/acceptance/test_embedded_system.py",
    "tests/acceptance/test_loop.py", "tests/acceptance/test_kill_everything.py",
)  # fmt: skip
"""Run when nothing else is asked for: all that is quick, and of each kind of process one file that starts and signals it."""
_PORTS = (5432, 5672, 15672, 4369, 8080)
_NOBODY = "nobody"
_SHOW = """
set -e
mount --bind "$1" "$3"
mount -t tmpfs -o mode=0755 tmpfs "$2"
(umask 022; mkdir -p "$1")
mount --bind "$3" "$1"
shift 3
exec "$@"
"""


def main(arguments: list[str]) -> int:
    """The exit code of pytest."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="a path with spaces ", ignore_cleanup_errors=True))
        )
        stack.enter_context(_taken_ports())
        checkout, home, temporary = folder / "check out", folder / "no home", folder / "t"
        _copy(checkout)
        home.mkdir(mode=0o555)
        temporary.mkdir()
        become = _nobody(folder, [checkout, temporary]) if os.geteuid() == 0 else []
        paths = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["mypy_path"].split(":")
        environment = {
            "PATH": f"{ROOT}/.venv/bin:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(str(checkout / path) for path in paths),
            "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home), "TZ": "Pacific/Auckland", "LC_ALL": "C", "NO_COLOR": "1",
            "TERM": "dumb", "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "PGHOST": "elsewhere", "PGPORT": "1",
            "SKYDRIVER_URL": "http://elsewhere",
        }  # fmt: skip
        words = [*become, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={temporary / 'b'}"]
        return subprocess.run(
            [*words, *(arguments or TESTS)], cwd=checkout, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, umask=0o077,
            preexec_fn=_as_in_the_background, check=False,
        ).returncode  # fmt: skip


def _as_in_the_background() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _copy(to: Path) -> None:
    """What is tracked, as it is now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _nobody(folder: Path, theirs: list[Path]) -> list[str]:
    """Let `nobody` own these; the words before a command that make it one of his."""
    folder.chmod(0o755)
    who = pwd.getpwnam(_NOBODY)
    for top in theirs:
        for path in (top, *top.rglob("*")):
            os.chown(path, who.pw_uid, who.pw_gid)
    become = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups"]
    # an interpreter in root's home: shown in a mount namespace of its own, where that home holds nothing else
    interpreter = Path(os.path.realpath(sys.executable)).parents[1]
    closed = [each for each in interpreter.parents if not each.stat().st_mode & 0o001]
    if not closed:
        return become
    aside = folder / "python"
    aside.mkdir()
    return ["unshare", "--mount", "sh", "-c", _SHOW, "sh", str(interpreter), str(closed[-1]), str(aside), *become]


@contextlib.contextmanager
def _taken_ports() -> Iterator[None]:
    """Somebody listens on the standard ports, and says nothing."""
    with contextlib.ExitStack() as stack:
        for port in _PORTS:
            with contextlib.suppress(OSError):  # somebody does
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
