"""``python -m skydriver_scanner``: deliver what an earlier session of this scan has left in its spool folder.

Reads the same environment as a scanner. Ends with 0 when nothing is left, 1 when something is (it says what and where), 2 when the
environment can't be used.
"""

from __future__ import annotations

import logging
import sys

from skydriver_scanner import NotDelivered, ScannerSession, SettingsError

_PATIENCE_S = 300.0


def main() -> int:
    """Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        ScannerSession.from_env().close(_PATIENCE_S)
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    except NotDelivered as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write("nothing is left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
