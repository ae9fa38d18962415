"""Clients behind proxies: whom a request is from, and how many one client may have at once.

All connections of a proxy come from one address. Those of a trusted one have no limit per address; the requests that it forwards are
counted by the address that it names instead. Nobody else is believed: anyone may send the header.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from skydriver_api.settings import Networks
from skydriver_common.faults import TryLater

__all__ = ["TRUSTED_PROXIES", "TrustedProxies"]

_RETRY_S = 5.0


class TrustedProxies:
    """networks: of the proxies. most_per_address: requests of one client at once. on_refused: called for each that is refused."""

    def __init__(self, networks: Networks, *, most_per_address: int, on_refused: Callable[[], None] = lambda: None) -> None:
        self._networks = networks
        self._most_per_address = most_per_address
        self._on_refused = on_refused
        self._by_address: Counter[str] = Counter()
        self.is_proxy = lru_cache(maxsize=1024)(self._is_proxy)

    def _is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_of(self, request: web.Request) -> str | None:
        """The client's address: the last one in ``X-Forwarded-For`` that is no proxy's. None: the request comes from no proxy."""
        peer = request.remote or ""
        if not self.is_proxy(peer):
            return None
        named = ",".join(request.headers.getall("X-Forwarded-For", ()))
        for hop in reversed(named.split(",")):
            address = _parsed(hop)
            if address is None:
                break  # what stands before it may be anybody's words
            if not self.is_proxy(str(address)):
                return str(address)
        return peer

    @contextmanager
    def counted(self, request: web.Request) -> Iterator[None]:
        """Around a request. Raises TryLater when its client has too many already."""
        client = self.client_of(request)
        if client is None:
            yield
            return
        if self._by_address[client] >= self._most_per_address:
            self._on_refused()
            raise TryLater("too many requests at once from this address", _RETRY_S)
        self._by_address[client] += 1
        try:
            yield
        finally:
            self._by_address[client] -= 1
            if not self._by_address[client]:
                del self._by_address[client]


TRUSTED_PROXIES = web.AppKey("trusted_proxies", TrustedProxies)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: with a port, in brackets, IPv4 within IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
