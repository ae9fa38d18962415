"""Keep every core busy with nice'd loops, as a machine is on which others work: `make test` must be green beside it.

    python -m tests.support.busy [command …]

Runs the command and ends with it, with its exit code; without one, until it is interrupted. The loops end by themselves when this
process is gone, however it went.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

_LOOP = """
import os, sys
os.nice(5)
while os.getppid() == int(sys.argv[1]):
    sum(range(100_000))
"""


@contextlib.contextmanager
def busy_cores(loops: int | None = None) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """One loop per core that this process may use, or so many; gone when left."""
    count = loops if loops is not None else len(os.sched_getaffinity(0))
    running = [subprocess.Popen([sys.executable, "-S", "-c", _LOOP, str(os.getpid())]) for _ in range(count)]
    try:
        yield running
    finally:
        for loop in running:
            loop.kill()
        for loop in running:
            loop.wait()


def main(command: list[str]) -> int:
    """The command's exit code."""
    with busy_cores() as loops, contextlib.suppress(KeyboardInterrupt):
        return subprocess.run(command, check=False).returncode if command else loops[0].wait()
    return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
