"""Projections of a stored Manifest. Source: REST contract 1.6."""

import orjson

Projection = frozenset[str] | None
"""Manifest fields to keep; None: all."""


def project(manifest: bytes, projection: Projection) -> bytes:
    """The Manifest with these fields only; all fields: the very bytes."""
    if projection is None:
        return manifest
    return orjson.dumps({name: value for name, value in orjson.loads(manifest).items() if name in projection})


def projection_of_query(text: str) -> Projection:
    """Field names joined by ``|``; empty, or with ``*`` among them: all."""
    names = frozenset(name for name in text.split("|") if name)
    return None if not names or "*" in names else names
