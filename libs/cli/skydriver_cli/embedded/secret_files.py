"""Secrets in the data directory: created once, readable by their owner only."""

from __future__ import annotations

import secrets
from pathlib import Path

from skydriver_common.atomic_write import atomic_write


def write_private(path: Path, content: str | bytes) -> None:
    """Replace `path` by a file of mode 600. It is never half-written or readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, mode=0o600) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def load_or_create_secret(path: Path) -> str:
    """Return the secret in `path`. If there is none, create a random one (43 URL-safe characters)."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        created = secrets.token_urlsafe(32)
        write_private(path, created)
        return created
