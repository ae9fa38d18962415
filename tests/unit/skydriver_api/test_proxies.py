"""Whom a request is from: the header is believed from trusted networks only."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from skydriver_api.http.proxies import TrustedProxies
from skydriver_api.settings import networks_of
from skydriver_common.faults import TryLater


def _request(peer: str, *forwarded: str) -> web.Request:
    def extra(name: str, default: Any = None) -> Any:
        return (peer, 1234) if name == "peername" else default

    transport = cast(Any, SimpleNamespace(get_extra_info=extra, is_closing=lambda: False))
    return make_mocked_request(
        "GET", "/", headers=cast(Any, [("X-Forwarded-For", each) for each in forwarded]), transport=transport
    )


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["192.0.2.1"], None),
        ("10.1.2.3", ["192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["1.1.1.1, 192.0.2.1, 10.9.9.9"], "192.0.2.1"),
        ("10.1.2.3", ["1.1.1.1", "192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["192.0.2.1:4711"], "192.0.2.1"),
        ("fd00::1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("::ffff:10.1.2.3", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", ["1.1.1.1, unknown"], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["10.1.2.4"], "10.1.2.3"),
        ("", ["192.0.2.1"], None),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(peer: str, forwarded: list[str], client: str | None) -> None:
    proxies = TrustedProxies(networks_of("10.0.0.0/8, fd00::/8"), most_per_address=1)
    assert proxies.client_of(_request(peer, *forwarded)) == client


def test_a_client_has_so_many_requests_at_once_and_more_when_they_have_ended() -> None:
    refused: list[None] = []
    proxies = TrustedProxies(networks_of("10.0.0.0/8"), most_per_address=1, on_refused=lambda: refused.append(None))
    request = _request("10.1.2.3", "192.0.2.1")
    with proxies.counted(request), proxies.counted(_request("10.1.2.3", "192.0.2.2")):
        with pytest.raises(TryLater), proxies.counted(request):
            pass
        with proxies.counted(_request("203.0.113.9", "192.0.2.1")):  # a stranger speaks for nobody
            pass
    with proxies.counted(request):
        pass
    assert len(refused) == 1


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|address|bits"):
        networks_of(text)
