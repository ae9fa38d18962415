"""Asking a service on behalf of a request; an ``Idempotency-Key`` makes it safe to repeat. Source: REST contract 1.10."""

import asyncio
import re
from hashlib import sha256
from typing import NamedTuple

from aiohttp import web

from skydriver_api.http.deps import DEPS
from skydriver_api.http.failures import HttpProblem
from skydriver_api.http.middleware import PRINCIPAL, check_client
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import ScanId, command_id_for_key
from skydriver_common.model.rejections import Reply

KEY_PATTERN = "[!-~](?:[ -~]{0,253}[!-~])?"
OFF_THE_LOOP_BYTES = 256 * 1024
FINGERPRINT = web.RequestKey("fingerprint", str)
"""Of the body of a request with a key, hexadecimal SHA-256."""
_KEY = re.compile(KEY_PATTERN)


class _Keyed(NamedTuple):
    """A request with a key: who sent it, how it is named, what is in it."""

    caller: str
    route: str
    key: str
    fingerprint: str

    def command_id(self) -> str:
        """The command that this key stands for, for this caller on this route."""
        return command_id_for_key(self.caller, self.route, self.key)


async def ask(request: web.Request, command: Command, raw: bytes) -> Reply:
    """The service's reply. The same caller, route, key and body get the recorded one again.

    raw: the request's body. Nothing is asked for a client that has left.
    Raises TryLater; HttpProblem 400 for a key that is none, 499 when the client has left.
    """
    actor, commander = request[PRINCIPAL].subject, request.app[DEPS].commander
    keyed = await _keyed(request, raw)
    check_client(request)
    if keyed is None:
        return await commander.ask(command, actor=actor)
    return await commander.ask(command, actor=actor, command_id=keyed.command_id(), fingerprint=keyed.fingerprint)


async def recorded_reply_for(request: web.Request, raw: bytes) -> Reply | None:
    """The reply that this request got when it was sent before, to this scan or to one that has replaced it since.

    None: it has no key, or is new. Raises TryLater; HttpProblem 400 for a key that is none.
    """
    keyed = await _keyed(request, raw)
    if keyed is None:
        return None
    deps = request.app[DEPS]
    scan_id = request.match_info.get("scan_id")
    for each in [None] if scan_id is None else await deps.reads.chain(ScanId(scan_id)):
        route = keyed.route if each is None else f"{request.method} {path_about(request, each)}"
        found = await deps.reads.recorded_reply(keyed._replace(route=route).command_id(), keyed.fingerprint)
        if found is not None:
            return found
    return None


def path_about(request: web.Request, scan_id: ScanId) -> str:
    """The path of this route about another scan, however the request has written its own path."""
    resource = request.match_info.route.resource
    assert resource is not None, "a handler runs on a route"
    return resource.url_for(scan_id=scan_id).raw_path


async def _keyed(request: web.Request, raw: bytes) -> _Keyed | None:
    """The request by its key. A body is digested once, a large one off the loop."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if _KEY.fullmatch(key) is None:
        raise HttpProblem(400, "Idempotency-Key: must have 1 to 255 printable ASCII characters")
    if FINGERPRINT not in request:
        digest = await asyncio.to_thread(sha256, raw) if len(raw) > OFF_THE_LOOP_BYTES else sha256(raw)
        request[FINGERPRINT] = digest.hexdigest()
    principal = request[PRINCIPAL]
    caller = f"{principal.issuer}\n{principal.subject}"
    return _Keyed(caller, f"{request.method} {request.path}", key, request[FINGERPRINT])
