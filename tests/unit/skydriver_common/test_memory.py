"""Memory that was freed goes back to the system."""

import subprocess
import sys

PROGRAM = """
from pathlib import Path
from skydriver_common.runtime.memory import _trim, keep_little_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

keep_little_memory()
for size in (12 << 20, 1 << 20, 300_000, 20_000):
    bodies = [b"x" * (size + n) for n in range((128 << 20) // size)]
    pinned = bodies[-1][:1000]
    del bodies
_trim()
print(resident_mib())
"""


def test_after_bodies_of_all_sizes_the_process_is_small_again() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=600)
    assert int(ran.stdout) < 120
