"""A route: method, path, roles, what it takes and returns. The server and its OpenAPI document are both made from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from skydriver_common.auth import Role
from skydriver_common.model.commands import Command

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path.

    roles: empty: open to all. response: the model of a 200. body: the model that checks it. query: names of parameters.
    redirects: to the scan that replaced this one. sends_command: to a service. extra_statuses: errors beyond the usual ones.
    streams: also gives server-sent events. allows_scan_tokens: tokens of single scans, as scanners have them. description: for the
    OpenAPI document, what the summary leaves out.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    roles: frozenset[Role]
    response: type[BaseModel]
    body: type[BaseModel] | None = None
    body_is_optional: bool = False
    query: tuple[str, ...] = ()
    redirects: bool = False
    sends_command: type[Command] | None = None
    extra_statuses: tuple[int, ...] = ()
    max_body_bytes: int = MIB
    streams: bool = False
    allows_scan_tokens: bool = True
    description: str = ""
