"""``python -m skydriver_scanner``: deliver what an earlier session of this scan left in its spool directory.

Reads the same environment as a scanner. Exit code: 0 when nothing is left, 1 when something is (it says what and where), 2 when the
environment is invalid.
"""

from __future__ import annotations

import logging
import sys

from skydriver_scanner import NotDelivered, ScannerSession, SettingsError

_TIMEOUT_S = 300.0


def main() -> int:
    """Deliver; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        ScannerSession.from_env().close(_TIMEOUT_S)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except NotDelivered as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("nothing left to deliver\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
