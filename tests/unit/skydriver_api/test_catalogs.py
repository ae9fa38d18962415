"""Sources of scanner images: a folder, a registry, both; and how long a list is believed."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from skydriver_api.images import resolver as images
from skydriver_api.images.catalogs import CachedCatalog, DirectoryCatalog, open_images
from skydriver_api.images.resolver import CatalogUnavailable, ImageNotFound, ImageResolver, ImageTooOld
from tests.support.waiting import let_others_run, until

OLD, NEW = "2024-01-01T00:00:00.123456Z", "2025-01-01T00:00:00Z"


def _unpacked(folder: Path, **tags: int) -> Path:
    for tag, moment in tags.items():
        image = folder / f"skymap_scanner:{tag.lstrip('v').replace('_', '.')}"
        image.mkdir()
        os.utime(image, (moment, moment))
    (folder / "another_image:9.9.9").mkdir()
    return folder


class Registry:
    """A list of tags in two pages, which can be away."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.pages: list[list[dict[str, Any]]] = [
            [{"name": "4.0.0", "tag_last_pushed": OLD}, {"name": "3.9.9", "tag_last_pushed": "2023-01-01T00:00:00Z"}],
            [{"name": "4.1.0", "tag_last_pushed": NEW}, {"name": "never-pushed", "tag_last_pushed": None}],
        ]

    async def tags(self, request: web.Request) -> web.Response:
        self.asked += 1
        number = int(request.query.get("page", "0"))
        following = f"{request.path}?page={number + 1}" if number + 1 < len(self.pages) else None
        return web.json_response({"results": self.pages[number], "next": following}, status=self.status)


@pytest.fixture
async def registry() -> AsyncIterator[tuple[Registry, str]]:
    registry = Registry()
    app = web.Application()
    app.router.add_get("/tags", registry.tags)
    async with TestServer(app) as server:
        yield registry, str(server.make_url("/tags"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_folder_of_unpacked_images_is_listed(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    folder = _unpacked(tmp_path, v4_0_0=1000, v4_1_2=2000, v3_0_1=500)
    images = open_images(f"directory:{folder}", minimum="v4.0.0", session=session)
    assert await images.resolve("v4") == "4.1.2"
    with pytest.raises(ImageTooOld):
        await images.resolve("3.0.1")
    with pytest.raises(ImageNotFound):
        await images.resolve("9.9.9")


async def test_a_folder_that_is_away_is_no_missing_image(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with pytest.raises(CatalogUnavailable):
        await open_images(f"directory:{tmp_path / 'nowhere'}", minimum="v4", session=session).resolve("latest")


async def test_a_registry_is_read_to_its_last_page(registry: tuple[Registry, str], session: aiohttp.ClientSession) -> None:
    images = open_images(f"registry:{registry[1]}", minimum="v4.0.0", session=session)
    assert await images.resolve("latest") == "4.1.0"
    with pytest.raises(ImageTooOld):
        await images.resolve("3.9.9")
    with pytest.raises(ImageNotFound):
        await images.resolve("never-pushed")


async def test_with_both_an_image_must_be_in_both(
    tmp_path: Path, registry: tuple[Registry, str], session: aiohttp.ClientSession
) -> None:
    folder = _unpacked(tmp_path, v4_0_0=1, v5_0_0=1)
    images = open_images(f"directory:{folder},registry:{registry[1]}", minimum="v4.0.0", session=session)
    assert await images.resolve("latest") == "4.0.0"
    with pytest.raises(ImageNotFound):
        await images.resolve("5.0.0")


async def test_the_minimum_need_not_be_unpacked_but_must_be_known(
    tmp_path: Path, registry: tuple[Registry, str], session: aiohttp.ClientSession
) -> None:
    folder = _unpacked(tmp_path, v4_1_0=1, v3_9_9=1)
    both = open_images(f"directory:{folder},registry:{registry[1]}", minimum="v4.0.0", session=session)
    assert await both.resolve("4.1.0") == "4.1.0"
    with pytest.raises(ImageTooOld):
        await both.resolve("3.9.9")
    for source in (f"directory:{folder}", f"registry:{registry[1]}"):
        with pytest.raises(CatalogUnavailable, match=r"v7\.7\.7"):  # nobody can tell what is too old
            await open_images(source, minimum="v7.7.7", session=session).resolve("4.1.0")


@pytest.mark.parametrize("page", [["no object"], [], [1]], ids=str)
async def test_a_page_of_another_form_is_no_list(session: aiohttp.ClientSession, page: Any) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"results": page} if page else page)

    async with _serving(answer) as url:
        with pytest.raises(CatalogUnavailable):
            await open_images(f"registry:{url}", minimum="v4", session=session).resolve("latest")


async def test_a_page_without_end_is_not_read_to_its_end(session: aiohttp.ClientSession) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 200:
            await response.write(b" " * 1_000_000)
            sent += 1
        return response

    async with _serving(answer) as url:
        with pytest.raises(CatalogUnavailable):
            await open_images(f"registry:{url}", minimum="v4", session=session).resolve("latest")
    assert sent < 50


@asynccontextmanager
async def _serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/tags", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/tags"))


async def test_a_registry_that_fails_is_away(registry: tuple[Registry, str], session: aiohttp.ClientSession) -> None:
    registry[0].status = 500
    with pytest.raises(CatalogUnavailable):
        await open_images(f"registry:{registry[1]}", minimum="v4", session=session).resolve("latest")


async def test_a_registry_that_leads_elsewhere_is_not_followed(
    registry: tuple[Registry, str], session: aiohttp.ClientSession
) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.json_response({"results": [], "next": registry[1]})

    app = web.Application()
    app.router.add_get("/tags", elsewhere)
    async with TestServer(app) as other:
        with pytest.raises(CatalogUnavailable):
            await open_images(f"registry:{other.make_url('/tags')}", minimum="v4", session=session).resolve("latest")


class Source:
    def __init__(self) -> None:
        self.tags: Mapping[str, float] = {"1.0.0": 1.0}
        self.is_away = False
        self.asked = 0

    async def push_times(self) -> Mapping[str, float]:
        self.asked += 1
        await let_others_run()
        if self.is_away:
            raise CatalogUnavailable("away")
        return self.tags


class HangingSource(Source):
    """Answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def push_times(self) -> Mapping[str, float]:
        self.asked += 1
        await self.may_answer.wait()
        if self.is_away:
            raise CatalogUnavailable("away")
        return self.tags


async def test_a_list_is_believed_for_minutes_and_used_for_an_hour_when_the_source_is_away() -> None:
    now, source = [0.0], Source()
    cached = CachedCatalog(source, clock=lambda: now[0])
    await asyncio.gather(*(cached.push_times() for _ in range(5)))
    assert source.asked == 1
    now[0] = 299
    await cached.push_times()
    assert source.asked == 1
    now[0], source.is_away = 301, True
    assert await cached.push_times() == source.tags
    now[0] = 3600
    assert await cached.push_times() == source.tags
    now[0] = 3601
    with pytest.raises(CatalogUnavailable):
        await cached.push_times()


async def test_an_older_list_is_served_at_once_and_refreshed_behind() -> None:
    now, source = [0.0], HangingSource()
    cached = CachedCatalog(source, clock=lambda: now[0])
    source.may_answer.set()
    await cached.push_times()
    now[0] = 301
    source.may_answer.clear()
    source.tags = {"2.0.0": 2.0}
    lists = await asyncio.wait_for(asyncio.gather(*(cached.push_times() for _ in range(50))), 120)
    assert {*map(str, lists)} == {"{'1.0.0': 1.0}"}
    assert source.asked == 2
    source.may_answer.set()

    async def is_refreshed() -> bool:
        return await cached.push_times() == source.tags

    await until(is_refreshed, poll_s=0)
    assert source.asked == 2


async def test_one_look_serves_everybody_and_after_one_that_failed_nobody_waits_for_another() -> None:
    now, source = [0.0], HangingSource()
    cached = CachedCatalog(source, clock=lambda: now[0])
    callers = [asyncio.create_task(cached.push_times()) for _ in range(50)]
    await let_others_run()
    callers[0].cancel()  # the look goes on for the others
    await let_others_run()
    source.is_away = True
    source.may_answer.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[1:]] == [CatalogUnavailable] * 49
    assert source.asked == 1
    source.may_answer.clear()
    for _ in range(10):
        with pytest.raises(CatalogUnavailable):
            await asyncio.wait_for(cached.push_times(), 120)
    assert source.asked == 1
    now[0] = 11
    source.is_away = False
    source.may_answer.set()
    assert await cached.push_times() == source.tags


async def test_a_tag_that_is_not_listed_is_not_said_to_be_missing_while_the_list_cannot_be_read() -> None:
    now, source = [0.0], Source()
    resolver = ImageResolver(CachedCatalog(source, clock=lambda: now[0]), minimum="1.0.0")
    assert await resolver.resolve("1.0.0") == "1.0.0"
    now[0], source.is_away = 20, True
    with pytest.raises(CatalogUnavailable):
        await resolver.resolve("2.0.0")
    assert await resolver.resolve("1.0.0") == "1.0.0"


async def test_a_request_waits_for_a_catalogue_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_RESOLVE_TIMEOUT_S", 0.05)
    with pytest.raises(CatalogUnavailable, match="in time"):
        await ImageResolver(CachedCatalog(HangingSource()), minimum="1.0.0").resolve("1.0.0")


async def test_a_folder_that_hangs_takes_one_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, may_return = [0.0], threading.Event()
    listed = os.scandir
    folder = _unpacked(tmp_path, v4_0_0=1000)

    def hanging(path: Path) -> Any:
        may_return.wait()
        return listed(path)

    monkeypatch.setattr(os, "scandir", hanging)
    catalog = CachedCatalog(DirectoryCatalog(folder, limit_s=0.02), clock=lambda: now[0])
    try:
        for _ in range(50):
            with pytest.raises(CatalogUnavailable):
                await catalog.push_times()
            now[0] += 11
        assert [thread.name for thread in threading.enumerate()].count("image-folder") == 1
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 120) == 1  # what others use is free
    finally:
        may_return.set()

    async def is_served() -> Mapping[str, float]:  # as soon as the call has returned there is room for another
        now[0] += 11
        return await catalog.push_times()

    assert await until(is_served, not_yet=CatalogUnavailable) == {"4.0.0": 1000}


async def test_a_missing_tag_is_looked_for_again_soon_but_not_at_once() -> None:
    now, source = [0.0], Source()
    cached = CachedCatalog(source, clock=lambda: now[0])
    await cached.push_times()
    source.tags = {"1.0.0": 1.0, "2.0.0": 2.0}
    assert "2.0.0" not in await cached.refresh_push_times()
    now[0] = 11
    assert "2.0.0" in await cached.refresh_push_times()


@pytest.mark.parametrize(
    "source", ["", "folder:/x", "directory:relative", "registry:ftp://x", "registry:", "embedded,directory:/x"]
)
async def test_a_source_of_another_form_is_refused(source: str, session: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="must be"):
        open_images(source, minimum="v4", session=session)
