"""Projections of a stored Manifest. Source: REST contract 1.6."""

from skydriver_common.faults import BadMessage
from skydriver_common.model import event_codec

Projection = frozenset[str] | None
"""Manifest fields to keep; None: all."""


def project(manifest: bytes, projection: Projection) -> bytes:
    """Return the Manifest with these fields only; with all fields: the same bytes. Values are never changed."""
    if projection is None:
        return manifest
    return event_codec.encode({name: value for name, value in event_codec.read_json(manifest).items() if name in projection})


def projection_of_query(text: str) -> Projection:
    """Field names joined by ``|``; empty, or with ``*`` among them: all. Raises BadMessage."""
    if not text:
        return None
    names = text.split("|")
    if not all(name.strip() for name in names):
        raise BadMessage("projection: must be field names joined by '|', none of them blank")
    if len(set(names)) != len(names):
        raise BadMessage("projection: must not name a field twice")
    return None if "*" in names else frozenset(names)
