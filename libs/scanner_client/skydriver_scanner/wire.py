"""The old name of ``protocol``, kept since scanners outside import it."""

from skydriver_scanner.protocol import *  # noqa: F403
