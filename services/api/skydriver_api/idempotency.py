"""Asking a service on behalf of a request; an ``Idempotency-Key`` makes it safe to repeat. Source: REST contract 1.10."""

import re
from hashlib import sha256
from typing import NamedTuple

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.failures import HttpProblem
from skydriver_api.middleware import PRINCIPAL
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import command_id_for_key
from skydriver_common.model.rejections import Reply

KEY_PATTERN = "[!-~](?:[ -~]{0,253}[!-~])?"
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

    raw: the request's body. Raises TryLater; HttpProblem 400 for a key that is none.
    """
    actor, commander = request[PRINCIPAL].subject, request.app[DEPS].commander
    keyed = _keyed(request, raw)
    if keyed is None:
        return await commander.ask(command, actor=actor)
    return await commander.ask(command, actor=actor, command_id=keyed.command_id(), fingerprint=keyed.fingerprint)


async def reply_before(request: web.Request, raw: bytes) -> Reply | None:
    """The reply that this request got when it was sent before, to this scan or to one that has replaced it since.

    None: it has no key, or is new. Raises TryLater; HttpProblem 400 for a key that is none.
    """
    keyed = _keyed(request, raw)
    if keyed is None:
        return None
    deps = request.app[DEPS]
    scan_id = request.match_info.get("scan_id")
    for each in [None] if scan_id is None else await deps.reads.chain(scan_id):
        route = keyed.route if each is None else keyed.route.replace(f"/{scan_id}/", f"/{each}/", 1)
        found = await deps.reads.recorded_reply(keyed._replace(route=route).command_id(), keyed.fingerprint)
        if found is not None:
            return found
    return None


def _keyed(request: web.Request, raw: bytes) -> _Keyed | None:
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return None
    if _KEY.fullmatch(key) is None:
        raise HttpProblem(400, "Idempotency-Key: must have 1 to 255 printable ASCII characters")
    principal = request[PRINCIPAL]
    return _Keyed(f"{principal.issuer}\n{principal.subject}", f"{request.method} {request.path}", key, sha256(raw).hexdigest())
