"""Queue credentials: who may use a workflow's queues, and where they are. Source: EWMS contract 8.

With RabbitMQ's management interface each workflow gets a broker user of its own that can touch its queues only. Without
(the embedded broker has none, it costs memory) all get the login of the given AMQP URL. EWMS creates no queues either
way: clients declare them.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

_TIMEOUT_S = 10.0


class BrokerRefusedError(Exception):
    """The broker's management interface did not do what was asked."""


@dataclass(frozen=True)
class Access:
    """auth_token is the password; broker_address is `user@host:port[/vhost]`."""

    auth_token: str
    broker_address: str


class Broker:
    """management_url: `http://user:password@host:port`, or None for one login for all."""

    def __init__(self, amqp_url: str, management_url: str | None) -> None:
        parts = urlsplit(amqp_url)
        if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
            raise BrokerRefusedError("SANDBOX_AMQP_URL is not an AMQP address")
        self._user = unquote(parts.username or "guest")
        self._password = unquote(parts.password or "guest")
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        self._place = f"{parts.hostname}:{port}"
        self._scheme = "amqps://" if parts.scheme == "amqps" else ""
        self._vhost = unquote(parts.path[1:]) or "/"
        self._management_url = management_url

    def _address(self, user: str) -> str:
        vhost = "" if self._vhost == "/" else f"/{quote(self._vhost, safe='')}"
        return f"{self._scheme}{quote(user, safe='')}@{self._place}{vhost}"

    async def grant(self, workflow_id: str, mqids: list[str], *, password: str | None = None) -> Access:
        """Access to these queues. Safe to repeat: it then changes the password. Raises BrokerRefusedError.

        password: the one to be given; without a management interface it is handed out and opens nothing.
        """
        if self._management_url is None:
            return Access(password or self._password, self._address(self._user))
        password = password or secrets.token_urlsafe(24)
        user, vhost = quote(workflow_id, safe=""), quote(self._vhost, safe="")
        queues = "|".join(re.escape(mqid) for mqid in mqids)
        await self._put(f"/api/users/{user}", {"password": password, "tags": ""})
        allowed = {"configure": f"^({queues})$", "write": f"^({queues}|amq\\.default)$", "read": f"^({queues})$"}
        await self._put(f"/api/permissions/{vhost}/{user}", allowed)
        return Access(password, self._address(workflow_id))

    async def _put(self, path: str, body: dict[str, Any]) -> None:
        parts = urlsplit(self._management_url or "")
        auth = aiohttp.BasicAuth(unquote(parts.username or "guest"), unquote(parts.password or "guest"))
        base = f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}"
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        # The path is encoded already; the vhost's %2F must stay as it is.
        url = URL(base + path, encoded=True)
        headers = {"Authorization": auth.encode()}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.put(url, json=body) as answer,
            ):
                if not answer.ok:
                    raise BrokerRefusedError(f"the broker's management interface answered {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BrokerRefusedError(f"the broker's management interface: {type(error).__name__}") from error
