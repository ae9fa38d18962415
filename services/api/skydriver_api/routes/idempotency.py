"""Sending the command of a request; an ``Idempotency-Key`` makes the request safe to retry. Source: REST contract 1.10."""

import asyncio
import re
from hashlib import sha256
from typing import NamedTuple

from aiohttp import web

from skydriver_api.commands.client import MAX_COMMAND_BYTES, CommandTooLarge
from skydriver_api.deps import DEPS
from skydriver_api.http.access import PRINCIPAL
from skydriver_api.http.http_errors import HttpError, check_client
from skydriver_api.http.route import MIB, Handler
from skydriver_api.payloads.parameters import IDEMPOTENCY_KEY_PATTERN
from skydriver_api.routes.responses import OFF_THE_LOOP_BYTES
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import ScanId, command_id_for_key
from skydriver_common.model.rejections import Reply

_FINGERPRINT = web.RequestKey("fingerprint", str)
"""Of the body of a request with a key, hexadecimal SHA-256."""
_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)


class _KeyedRequest(NamedTuple):
    """A request with an ``Idempotency-Key``. fingerprint: of its body."""

    caller: str
    route: str
    key: str
    fingerprint: str

    def command_id(self) -> str:
        """Return the id of the command that this caller's key on this route stands for."""
        return command_id_for_key(self.caller, self.route, self.key)


def with_admission(command_key: str, handler: Handler) -> Handler:
    """Return the handler behind the command's admission limit, so that a refused request is refused before its body is read."""

    async def admitted(request: web.Request) -> web.StreamResponse:
        request.app[DEPS].commands.admission(command_key).check()
        return await handler(request)

    return admitted


async def send_idempotent(request: web.Request, command: Command, raw: bytes) -> Reply:
    """Send the command and return the service's reply. The same caller, route, key and body get the recorded reply again.

    raw: the request's body. Nothing is sent for a client that has left.
    Raises TryLater; HttpError 400 for an invalid key, 413 for a command that is too large, 499 when the client has left.
    """
    actor, commands = request[PRINCIPAL].subject, request.app[DEPS].commands
    keyed = await _keyed(request, raw)
    check_client(request)
    try:
        if keyed is None:
            return await commands.call(command, actor=actor)
        return await commands.call(command, actor=actor, command_id=keyed.command_id(), fingerprint=keyed.fingerprint)
    except CommandTooLarge as error:
        limit = f"at most {MAX_COMMAND_BYTES // MIB} MiB without the event or result"
        raise HttpError(413, f"body: too large to be processed; {limit}") from error


async def recorded_reply_for(request: web.Request, raw: bytes) -> Reply | None:
    """Return the reply that this request got when it was sent before, to this scan or to one that has replaced it since.

    None: it has no key, or is new. Raises TryLater; HttpError 400 for an invalid key.
    """
    keyed = await _keyed(request, raw)
    if keyed is None:
        return None
    deps = request.app[DEPS]
    scan_id = request.match_info.get("scan_id")
    for each in [None] if scan_id is None else await deps.reads.chain(ScanId(scan_id)):
        route = keyed.route if each is None else f"{request.method} {path_for_scan(request, each)}"
        found = await deps.reads.recorded_reply(keyed._replace(route=route).command_id(), keyed.fingerprint)
        if found is not None:
            return found
    return None


def path_for_scan(request: web.Request, scan_id: ScanId) -> str:
    """Return the path of this route for another scan, however the request has spelled its own path."""
    resource = request.match_info.route.resource
    assert resource is not None, "a handler runs on a route"
    return resource.url_for(scan_id=scan_id).raw_path


async def _keyed(request: web.Request, raw: bytes) -> _KeyedRequest | None:
    """Return the request with its key, None when it has none. A body is digested once, a large one off the loop."""
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if _KEY.fullmatch(key) is None:
        raise HttpError(400, "Idempotency-Key: must be 1 to 255 printable ASCII characters, without spaces at its ends")
    if _FINGERPRINT not in request:
        digest = await asyncio.to_thread(sha256, raw) if len(raw) > OFF_THE_LOOP_BYTES else sha256(raw)
        request[_FINGERPRINT] = digest.hexdigest()
    principal = request[PRINCIPAL]
    caller = f"{principal.issuer}\n{principal.subject}"
    return _KeyedRequest(caller, f"{request.method} {request.path}", key, request[_FINGERPRINT])
