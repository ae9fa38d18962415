"""Memory that was freed goes back to the system: what a service needs at its peak it must not keep for ever.

The C library keeps freed blocks below a threshold that grows with use, up to 32 MiB: a dozen bodies of 12 MB left 400 MB behind.
With a fixed threshold larger blocks are always maps of their own, which end when they are freed; the rest is trimmed after
large work. Elsewhere than on glibc nothing is done.
"""

import ctypes
import threading
from functools import cache
from typing import Any

__all__ = ["free_memory_soon", "keep_little_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 512 * 1024
_KEPT_BYTES = 8 * 1024 * 1024
"""Free memory at the heap's end: less is not worth the calls that give it back and take it again."""
_ARENAS = 2
_PAUSE_S = 2.0

_waits = threading.Event()


def keep_little_memory() -> None:
    """To be called once, at the start of a process."""
    library = _library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def free_memory_soon() -> None:
    """After large work: give back what is free by then, beside the loop, and once for all who call this meanwhile."""
    if _waits.is_set() or _library() is None:
        return
    _waits.set()
    timer = threading.Timer(_PAUSE_S, _trim)
    timer.daemon = True
    timer.start()


def _trim() -> None:
    _waits.clear()
    library = _library()
    if library is not None:
        library.malloc_trim(0)  # without the interpreter's lock


@cache
def _library() -> Any:
    """The C library, None unless it is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.malloc_trim, library.mallopt  # noqa: B018
    except (OSError, AttributeError):
        return None
    return library
