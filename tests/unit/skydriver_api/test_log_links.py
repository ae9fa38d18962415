"""Links to a scanner server's log. Source: REST contract 8.7."""

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from skydriver_api.reads.log_links import LogLinks
from skydriver_common.model.ids import ScanId, new_scan_id

START = 1_700_000_000.0
DAY = 24 * 3600.0


class Prometheus:
    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.status = 200
        self.answers = asyncio.Event()
        self.answers.set()

    async def query_range(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        await self.answers.wait()
        values = [[START + 60.0 * step, "1"] for step in range(11)]
        return web.json_response({"data": {"result": [{"metric": {}, "values": values}]}}, status=self.status)


@pytest.fixture
async def prometheus() -> AsyncIterator[tuple[Prometheus, Callable[[float], LogLinks]]]:
    prometheus = Prometheus()
    app = web.Application()
    app.router.add_get("/api/v1/query_range", prometheus.query_range)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        made: list[LogLinks] = []

        def links(now: float) -> LogLinks:
            made.append(
                LogLinks(
                    dashboard_url="http://logs.test/d?x=1", namespace="a b", prometheus_url=str(server.make_url("/")),
                    session=session, clock=lambda: now,
                )
            )  # fmt: skip
            return made[-1]

        yield prometheus, links
        for one in made:
            await one.close()


def test_without_a_dashboard_there_is_no_link() -> None:
    assert LogLinks().url(ScanId("abc")) is None


async def test_in_the_first_day_nobody_is_asked_for_an_end(
    prometheus: tuple[Prometheus, Callable[[float], LogLinks]],
) -> None:
    links = prometheus[1](START + DAY - 1)
    assert links.start_lookup(ScanId("abc"), START) is None
    assert not links.is_due(new_scan_id(START)), "so nobody asks when the scan began either"
    assert links.url(ScanId("abc")) == "http://logs.test/d?x=1&var-namespace=a%20b&var-container=skyscan-server-abc"


async def test_afterwards_the_link_shows_the_last_hour_of_the_log(
    prometheus: tuple[Prometheus, Callable[[float], LogLinks]],
) -> None:
    server, make = prometheus
    links = make(START + DAY + 1)
    looking = links.start_lookup(ScanId("abc"), START)
    assert looking is not None
    await looking
    end = int(START + 600)
    assert str(links.url(ScanId("abc"))).endswith(f"&from={(end - 3600) * 1000}&to={end * 1000}")
    assert links.start_lookup(ScanId("abc"), START) is None, "known for a quarter of an hour"
    assert not links.is_due(ScanId("abc"))
    assert links.is_due(new_scan_id(START))
    assert [(one["query"], one["step"]) for one in server.asked] == [
        ('kube_pod_container_status_running{container="skyscan-server-abc"}', "60")
    ]


async def test_a_failure_gives_the_link_without_a_window(
    prometheus: tuple[Prometheus, Callable[[float], LogLinks]],
) -> None:
    server, make = prometheus
    server.status = 500
    links = make(START + DAY + 1)
    looking = links.start_lookup(ScanId("abc"), START)
    assert looking is not None
    await looking
    assert "&from=" not in str(links.url(ScanId("abc")))


async def test_a_failure_does_not_forget_what_was_found_before(
    prometheus: tuple[Prometheus, Callable[[float], LogLinks]],
) -> None:
    server, make = prometheus
    now = [START + DAY + 1]
    links = make(now[0])
    links._clock = lambda: now[0]
    looking = links.start_lookup(ScanId("abc"), START)
    assert looking is not None
    await looking
    found = links.url(ScanId("abc"))
    assert "&to=" in str(found)
    now[0] += 3600
    server.status = 500
    looking = links.start_lookup(ScanId("abc"), START)
    assert looking is not None
    await looking
    assert links.url(ScanId("abc")) == found


async def test_a_look_up_is_shared_and_does_not_hold_up_the_link(
    prometheus: tuple[Prometheus, Callable[[float], LogLinks]],
) -> None:
    server, make = prometheus
    server.answers.clear()
    links = make(START + DAY + 1)
    assert links.start_lookup(ScanId("abc"), START) is links.start_lookup(ScanId("abc"), START)
    assert "&from=" not in str(links.url(ScanId("abc")))
    server.answers.set()
