"""Asking a service on behalf of a request; an ``Idempotency-Key`` makes it safe to repeat. Source: REST contract 1.10."""

from hashlib import sha256

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.failures import HttpProblem
from skydriver_api.middleware import PRINCIPAL
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import command_id_for_key
from skydriver_common.model.rejections import Reply

_LONGEST_KEY = 255


async def ask(request: web.Request, command: Command, raw: bytes) -> Reply:
    """The service's reply. The same caller, route, key and body get the recorded one again.

    raw: the request's body. Raises TryLater; HttpProblem 400 for a key that is too long.
    """
    principal = request[PRINCIPAL]
    key = request.headers.get("Idempotency-Key")
    if key is None or request.method != "POST":
        return await request.app[DEPS].commander.ask(command, actor=principal.subject)
    if not 0 < len(key) <= _LONGEST_KEY:
        raise HttpProblem(400, f"Idempotency-Key: must have 1 to {_LONGEST_KEY} characters")
    return await request.app[DEPS].commander.ask(
        command,
        actor=principal.subject,
        command_id=command_id_for_key(f"{principal.issuer}\n{principal.subject}", f"{request.method} {request.path}", key),
        fingerprint=sha256(raw).hexdigest(),
    )
