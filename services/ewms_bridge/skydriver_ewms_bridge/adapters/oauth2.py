"""Tokens for EWMS by OAuth2 client credentials: discovered, kept, renewed early. Source: EWMS contract 2."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp
import jwt
import orjson
import structlog
from pydantic import SecretStr

from skydriver_common.faults import TryLater
from skydriver_ewms_bridge.retry_policy import (
    INVALID_RESPONSE_RETRY_S,
    MISCONFIGURED_LOGIN_RETRY_S,
    SERVER_FAULT_RETRY_S,
    UNREACHABLE_RETRY_S,
)

logger = structlog.get_logger(__name__)

REFRESH_BEFORE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Token:
    text: SecretStr
    renew_at: float


class ClientCredentials:
    """One cached access token for one client, shared by all calls of this process.

    issuer: base of the discovery document. session: for the issuer's own requests. clock: Unix seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        issuer: str,
        client_id: str,
        client_secret: SecretStr,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._issuer = issuer.rstrip("/")
        self._client_id = client_id
        self._client_secret = client_secret
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._token: _Token | None = None
        self._endpoint: str | None = None
        self._fetching = asyncio.Lock()

    async def token(self) -> SecretStr:
        """A token that is good for a while. Raises TryLater when the issuer gives none."""
        if (known := self._known()) is not None:
            return known
        async with self._fetching:  # one request, however many calls wait for it
            if (known := self._known()) is not None:
                return known
            self._token = await self._fetch()
            return self._token.text

    def drop(self, refused: SecretStr) -> None:
        """Forget a token that EWMS refused; one fetched meanwhile by another call stays."""
        if self._token is not None and self._token.text.get_secret_value() == refused.get_secret_value():
            self._token = None

    def _known(self) -> SecretStr | None:
        return self._token.text if self._token is not None and self._clock() < self._token.renew_at else None

    async def _fetch(self) -> _Token:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._client_secret.get_secret_value(),
            "scope": "offline_access",
        }
        endpoint = await self._discovered()
        try:
            answer = await self._ask("POST", endpoint, form)
        except TryLater:
            self._endpoint = None  # it may have moved: discover it again next time
            raise
        text = answer.get("access_token")
        if not isinstance(text, str) or not text:
            raise TryLater("the EWMS token issuer returned no token", MISCONFIGURED_LOGIN_RETRY_S)
        return _Token(SecretStr(text), self._renew_at(text, answer.get("expires_in")))

    async def _discovered(self) -> str:
        if self._endpoint is None:
            answer = await self._ask("GET", f"{self._issuer}/.well-known/openid-configuration")
            endpoint = answer.get("token_endpoint")
            if not isinstance(endpoint, str) or not endpoint:
                raise TryLater("the EWMS token issuer names no token endpoint", MISCONFIGURED_LOGIN_RETRY_S)
            found = urljoin(self._issuer + "/", endpoint)
            issuer = urlsplit(self._issuer)
            if issuer.scheme == "https" and urlsplit(found)[:2] != issuer[:2]:  # it gets our secret
                raise TryLater("the EWMS token issuer names a token endpoint on another host", MISCONFIGURED_LOGIN_RETRY_S)
            self._endpoint = found
        return self._endpoint

    async def _ask(self, method: str, url: str, form: dict[str, str] | None = None) -> dict[str, object]:
        try:
            async with self._session.request(method, url, data=form, timeout=self._timeout, allow_redirects=False) as response:
                if response.status >= 400:
                    if response.status < 500:
                        # A wrong id or secret: no repetition helps until somebody changes the settings.
                        logger.error("ewms.credentials-refused", status=response.status)
                        raise TryLater("the EWMS token issuer rejected our client id or secret", MISCONFIGURED_LOGIN_RETRY_S)
                    raise TryLater(f"the EWMS token issuer responded with HTTP {response.status}", SERVER_FAULT_RETRY_S)
                answer = orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise TryLater("the EWMS token issuer is not reachable", UNREACHABLE_RETRY_S) from fault
        except orjson.JSONDecodeError as fault:
            raise TryLater("the EWMS token issuer sent a response that cannot be parsed", INVALID_RESPONSE_RETRY_S) from fault
        if not isinstance(answer, dict):
            raise TryLater("the EWMS token issuer sent a response that cannot be parsed", INVALID_RESPONSE_RETRY_S)
        return answer

    def _renew_at(self, token: str, expires_in: object) -> float:
        now = self._clock()
        end = _expiry(token)
        if end is None and isinstance(expires_in, int | float):
            end = now + float(expires_in)
        if end is None:
            end = now + REFRESH_BEFORE_S * 2
        # A token of few seconds is used for three quarters of them, not renewed before each call.
        return end - min(REFRESH_BEFORE_S, 0.25 * max(0.0, end - now))


def _expiry(token: str) -> float | None:
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    end = claims.get("exp")
    return float(end) if isinstance(end, int | float) and not isinstance(end, bool) else None
