"""A route: what it is called by, who may, what it takes and gives. Both the server and its OpenAPI document are made from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from skydriver_common.auth import Role
from skydriver_common.model.commands import Command

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path.

    roles: none: open to all. answer: JSON Schema of a 200. body: the model that checks it. query: names of parameters.
    redirects: to the scan that replaced this one. asks: the command it sends to a service. refusals: statuses beyond the usual.
    most_bytes: of the body. streams: also gives server-sent events. scan_tokens: open to tokens of single scans, as scanners have.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    roles: frozenset[Role]
    answer: dict[str, Any]
    body: type[BaseModel] | None = None
    body_is_optional: bool = False
    query: tuple[str, ...] = ()
    redirects: bool = False
    sends_command: type[Command] | None = None
    refusals: tuple[int, ...] = ()
    most_bytes: int = MIB
    streams: bool = False
    scan_tokens: bool = True
