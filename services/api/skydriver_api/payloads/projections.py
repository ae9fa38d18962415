"""Projections of a stored Manifest. Source: REST contract 1.6."""

from skydriver_api.http.failures import HttpProblem
from skydriver_common.model import event_codec

Projection = frozenset[str] | None
"""Manifest fields to keep; None: all."""


def project(manifest: bytes, projection: Projection) -> bytes:
    """The Manifest with these fields only; all fields: the very bytes. Values are never changed, only chosen."""
    if projection is None:
        return manifest
    return event_codec.encode({name: value for name, value in event_codec.read_json(manifest).items() if name in projection})


def projection_of_query(text: str) -> Projection:
    """Field names joined by ``|``; empty, or with ``*`` among them: all. Raises HttpProblem 400 naming the parameter."""
    if not text:
        return None
    names = text.split("|")
    if not all(name.strip() for name in names):
        raise HttpProblem(400, "projection: must be field names joined by '|', none of them blank")
    if len(set(names)) != len(names):
        raise HttpProblem(400, "projection: must not name a field twice")
    return None if "*" in names else frozenset(names)
