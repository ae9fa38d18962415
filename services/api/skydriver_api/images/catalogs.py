"""Sources of scanner images: a folder of unpacked images as on CVMFS, an HTTP registry, or both. Source: REST contract 8.2."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp
import orjson
import structlog

from skydriver_api.images.resolver import CatalogUnavailable, EmbeddedCatalog, ImageResolver
from skydriver_common.blocking_calls import BlockingCalls
from skydriver_common.payloads.read_limited import read_limited

logger = structlog.get_logger(__name__)

_IMAGE = "skymap_scanner:"
_READ_TIMEOUT_S = 5.0
_FRESH_FOR_S = 300.0
_MAX_STALE_S = 3600.0
_REFRESH_INTERVAL_S = 10.0
_MAX_PAGES = 100
_MAX_PAGE_BYTES = 4 * 1024 * 1024


class Source(Protocol):
    """Where a list of images is read from."""

    async def push_times(self) -> Mapping[str, float]:
        """Tag to the time of its push, Unix seconds. Raises CatalogUnavailable."""


class DirectoryCatalog:
    """Entries ``skymap_scanner:<tag>`` of a folder. A network file system may hang: looking has a limit and a thread of its own."""

    def __init__(self, folder: Path, *, limit_s: float = _READ_TIMEOUT_S) -> None:
        self._folder = folder
        self._limit_s = limit_s
        self._calls = BlockingCalls("image-folder")

    async def push_times(self) -> Mapping[str, float]:
        """See Source; the time is that of the entry."""
        try:
            return await self._calls.run(self._entries, limit_s=self._limit_s)
        except (OSError, TimeoutError) as error:
            logger.warning("images.folder-unavailable", error=type(error).__name__)
            raise CatalogUnavailable("the image directory cannot be read") from error

    def _entries(self) -> dict[str, float]:
        with os.scandir(self._folder) as entries:
            return {
                entry.name.removeprefix(_IMAGE): entry.stat(follow_symlinks=False).st_mtime
                for entry in entries
                if entry.name.startswith(_IMAGE)
            }


class RegistryCatalog:
    """A registry's list of tags: pages of ``{"results": [{"name", "tag_last_pushed"}], "next": URL | null}``, as Docker Hub has it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def push_times(self) -> Mapping[str, float]:
        """See Source."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S * 3):
                return await self._all_pages()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("images.registry-unavailable", error=type(error).__name__)
            raise CatalogUnavailable("the image registry is unavailable") from error

    async def _all_pages(self) -> dict[str, float]:
        tags: dict[str, float] = {}
        url: str | None = self._url
        for _ in range(_MAX_PAGES):
            if url is None:
                return tags
            if urlsplit(url)[:2] != urlsplit(self._url)[:2]:
                raise ValueError("the registry's next page is on another host")
            page = await self._page(url)
            tags |= {
                str(entry["name"]): datetime.fromisoformat(entry["tag_last_pushed"]).timestamp()
                for entry in page["results"]
                if entry.get("tag_last_pushed")
            }
            url = urljoin(url, page["next"]) if page.get("next") else None
        raise ValueError("the registry's tag list has too many pages")

    async def _page(self, url: str) -> Any:
        limit = aiohttp.ClientTimeout(total=_READ_TIMEOUT_S)
        async with self._session.get(url, timeout=limit, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"the registry responded with status {response.status}")
            return orjson.loads(await read_limited(response, _MAX_PAGE_BYTES))


class BothCatalogs:
    """An image must be in the folder and on the registry; the registry knows when it was pushed."""

    def __init__(self, folder: Source, registry: Source) -> None:
        self._folder = folder
        self._registry = registry

    async def push_times(self) -> Mapping[str, float]:
        """See Source."""
        unpacked, push_times = await asyncio.gather(self._folder.push_times(), self._registry.push_times())
        return {tag: moment for tag, moment in push_times.items() if tag in unpacked}


class CachedCatalog:
    """Caches a list for minutes. An older one is served at once and refreshed in the background, for an hour at most.

    One refresh runs at a time, for all callers; after one that failed there is none for ten times as long as it
    took, ten seconds at most: a source that hangs is left alone, one that fails at once costs little.
    """

    def __init__(self, catalog: Source, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._clock = clock
        self._tags: Mapping[str, float] = {}
        self._read_at = float("-inf")
        self._failed_at = self._quiet_until = float("-inf")
        self._why = "the image catalogue cannot be read"
        self._refreshing: asyncio.Task[None] | None = None

    async def push_times(self) -> Mapping[str, float]:
        """See Source."""
        age_s = self._clock() - self._read_at
        if age_s > _FRESH_FOR_S:
            task = self._start_refresh()
            if age_s > _MAX_STALE_S:
                await self._await_refresh(task)
        return self._tags

    async def refresh_push_times(self) -> Mapping[str, float]:
        """The list once more, for a tag that was not in it: at most every ten seconds from the source."""
        if self._clock() - self._read_at > _REFRESH_INTERVAL_S:
            await self._await_refresh(self._start_refresh())
        return self._tags

    def _start_refresh(self) -> "asyncio.Task[None] | None":
        """Return the running refresh, a new one, or None when the last one failed just now."""
        if self._refreshing is None and self._clock() > self._quiet_until:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refresh_has_ended)
        return self._refreshing

    async def _await_refresh(self, task: "asyncio.Task[None] | None") -> None:
        """Wait for the refresh, which continues when the caller does not. Raises CatalogUnavailable when it brought no list."""
        if task is not None:
            await asyncio.wait([task])
        if task is None or self._failed_at > self._read_at:
            raise CatalogUnavailable(self._why)

    def _refresh_has_ended(self, _: object) -> None:
        self._refreshing = None

    async def _refresh(self) -> None:
        began = self._clock()
        try:
            self._tags = await self._catalog.push_times()
            self._read_at = self._clock()
        except CatalogUnavailable as error:
            self._why = str(error)
            self._note_failure(began)
        except Exception:
            logger.exception("images.look-failed")
            self._note_failure(began)

    def _note_failure(self, began: float) -> None:
        self._failed_at = self._clock()
        self._quiet_until = self._failed_at + min(_REFRESH_INTERVAL_S, 10 * (self._failed_at - began))


def open_images(source: str, *, minimum: str, session: aiohttp.ClientSession) -> ImageResolver:
    """The resolver on the configured source: ``embedded``, ``directory:PATH``, ``registry:URL``, or both by a comma.

    Raises ValueError for a source of another form.
    """
    if source == "embedded":
        return ImageResolver(EmbeddedCatalog(), minimum=minimum)
    parts: dict[str, Source] = {}
    for part in source.split(","):
        kind, _, where = part.strip().partition(":")
        if kind == "directory" and Path(where).is_absolute():
            parts["directory"] = DirectoryCatalog(Path(where))
        elif kind == "registry" and urlsplit(where).scheme in ("http", "https") and urlsplit(where).hostname:
            parts["registry"] = RegistryCatalog(where, session)
        else:
            raise ValueError("must be embedded, directory:/PATH, registry:URL, or directory:/PATH,registry:URL")
    if len(parts) == 1:
        return ImageResolver(CachedCatalog(next(iter(parts.values()))), minimum=minimum)
    both = CachedCatalog(BothCatalogs(parts["directory"], parts["registry"]))
    return ImageResolver(both, minimum=minimum, known=CachedCatalog(parts["registry"]))
