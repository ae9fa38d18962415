"""A folder that hangs whoever looks into it, as a network file system does whose server is gone. Linux, root only."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_LAZILY = 2
"""MNT_DETACH: whoever is in there still is no hindrance."""


@contextlib.contextmanager
def hung_folder(path: Path) -> Iterator[Path]:
    """Mount a file system at this new folder whose server never answers; on leaving, whoever waits gets an error.

    Raises OSError where that is not allowed.
    """
    path.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={server},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}".encode()
        if libc.mount(b"hung", os.fsencode(path), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError:
        os.close(server)
        path.rmdir()
        raise
    try:
        yield path
    finally:
        os.close(server)
        libc.umount2(os.fsencode(path), _LAZILY)
