"""Secrets in the data directory: created once, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_private(path: Path, content: str | bytes) -> None:
    """Replace `path` by a file of mode 600. It is never half-written or readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(content.encode() if isinstance(content, str) else content)
        sink.flush()
        os.fsync(sink.fileno())
    partial.replace(path)


def load_or_create_secret(path: Path) -> str:
    """Return the secret in `path`. If there is none, create a random one (43 URL-safe characters)."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        created = secrets.token_urlsafe(32)
        write_private(path, created)
        return created
