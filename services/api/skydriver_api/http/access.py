"""Who may use a route: the token, its roles and, for tokens of one scan, a check of the route's own. Source: REST contract 1.2."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from skydriver_api.http.http_errors import HttpError
from skydriver_api.http.route import Handler
from skydriver_common.auth import InvalidToken, Principal, Role, TokenVerifier, bearer_token

PRINCIPAL = web.RequestKey("principal", Principal)
ROLES = web.RequestKey("roles", frozenset[Role])
"""Effective roles: those of the token that the route allows (REST contract 1.2)."""

ScanTokenCheck = Callable[[web.Request, Principal], Awaitable[None]]
"""Whether a token of one scan is valid on this request. Raises HttpError 401, 403."""


def require_roles(
    roles: frozenset[Role], verifier: TokenVerifier, handler: Handler, *, check_scan_token: ScanTokenCheck
) -> Handler:
    """Return the handler behind a check of the token and its roles."""
    required = " or ".join(role.value for role in Role if role in roles)

    async def checked(request: web.Request) -> web.StreamResponse:
        try:
            principal = await verifier.verify(bearer_token(request.headers.get("Authorization")))
        except InvalidToken as error:
            raise unauthorized(error.reason) from error
        effective = principal.roles & roles
        if not effective:
            raise HttpError(403, f"forbidden: this route requires the role {required}")
        if principal.scan_id is not None:
            await check_scan_token(request, principal)
        request[PRINCIPAL] = principal
        request[ROLES] = effective
        return await handler(request)

    return checked


def unauthorized(reason: str) -> HttpError:
    """The error for a missing or invalid token."""
    return HttpError(401, f"invalid token: {reason}", {"WWW-Authenticate": "Bearer"})
