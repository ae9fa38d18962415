"""The token of a scan that has ended long ago opens no route, and neither does that of a running one beyond its own scan."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from skydriver_api.app import ROUTES
from skydriver_api.http.route import Route
from skydriver_common.auth import Principal, Role, TokenVerifier
from skydriver_common.model import events as ev
from skydriver_common.model.ids import ScanId
from tests.support.gateway import LocalGateway, local_gateway
from tests.support.histories import a_store

GUARDED = [route for route in ROUTES if route.roles]


class _Scanner:
    """Believes any token, and takes its bearer for the scanner of this scan, with more roles than it ever has."""

    def __init__(self, scan_id: ScanId) -> None:
        self._scan_id = scan_id

    async def verify(self, token: str) -> Principal:
        return Principal("scanner", "test", frozenset(Role), self._scan_id)


@asynccontextmanager
async def _scanners_gateway(
    database: str, amqp_url: str, *, has_ended: bool
) -> AsyncIterator[tuple[LocalGateway, ScanId, ScanId]]:
    """The gateway, the scan of the token, another scan."""
    async with a_store(database) as store:
        scan, other = await store.a_scan(), await store.a_scan()
        if has_ended:
            await store.append("dispatcher", scan, ev.ScanDeleted())
        verifier = cast(TokenVerifier, _Scanner(scan))
        async with local_gateway(database, amqp_url, verifier=verifier, scan_token_grace_s=-1.0) as gateway:
            yield gateway, scan, other


def _path(route: Route, scan: ScanId) -> str:
    return re.sub(r"\{\w+:[^}]*\}", scan, route.path)


async def _status(gateway: LocalGateway, route: Route, scan: ScanId) -> int:
    body = b"{}" if route.body is not None else None
    async with gateway.session.request(
        route.method, gateway.url + _path(route, scan), data=body, allow_redirects=False
    ) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "another scan"])
async def test_no_route_is_open_to_it(database: str, clean_bus: str, has_ended: bool) -> None:
    async with _scanners_gateway(database, clean_bus, has_ended=has_ended) as (gateway, scan, other):
        aim = scan if has_ended else other
        answers = {(route.method, route.path): await _status(gateway, route, aim) for route in GUARDED}
        about_a_scan = {(route.method, route.path) for route in GUARDED if "{scan_id" in route.path}
        assert {route: status for route, status in answers.items() if status not in (401, 403)} == {}
        assert {status for route, status in answers.items() if route not in about_a_scan} == {403}
        assert (401 in answers.values()) == has_ended
