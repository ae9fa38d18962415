"""A file that appears when it is complete, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(
    path: Path, *, mode: int | None = None, overwrite: bool = True, flush_to_disk: bool = True
) -> Iterator[BinaryIO]:
    """Write to a file beside it, which takes its place at the end and is removed on an error. Raises OSError.

    The name of the one beside is its writer's own: two who write the same file do not mix, the later one wins.
    mode: the file's permissions from its first moment, whatever the umask; None: as the umask says. overwrite: False leaves a file
    that is there by then as it is. flush_to_disk: False for what nobody needs after the machine itself has crashed.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode & 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if flush_to_disk:
                os.fsync(file.fileno())
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        if overwrite:
            partial.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
