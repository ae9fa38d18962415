"""Scanner images: which tags exist, what a tag of a request means, which are too old. Source: REST contract 8.2."""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import date
from typing import Protocol

import structlog

logger = structlog.get_logger(__name__)

_RESOLVE_TIMEOUT_S = 5.0
"""How long one request waits for the catalogue, however many refreshes it needs."""

_SHORT = re.compile(r"[vV](\d{1,3}(?:\.\d{1,3}){0,2})")
_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_PART = re.compile(r"\d+(?:\.\d+)?")

EMBEDDED: Mapping[str, date] = {
    "3.0.9": date(2022, 11, 1),
    "4.0.0": date(2024, 2, 1),
    "3.1.5": date(2024, 3, 1),
    "3.10.0": date(2024, 4, 1),
    "4.0.1": date(2024, 5, 1),
    "eqscan-6207146": date(2024, 6, 1),
}
"""The embedded system's images and when each was pushed; 3.0.9 is older than the default minimum."""


class ImageNotFound(Exception):
    """No image has this tag."""


class ImageTooOld(Exception):
    """The image exists, but was pushed before the minimum."""


class CatalogUnavailable(Exception):
    """The catalogue is unavailable at the moment."""


class ImageCatalog(Protocol):
    """Where scanner images are listed."""

    async def push_times(self) -> Mapping[str, float]:
        """Tag to the time of its push, Unix seconds. Raises CatalogUnavailable."""

    async def refresh_push_times(self) -> Mapping[str, float]:
        """The same, as new as is reasonable: a tag was not in the list. Raises CatalogUnavailable."""


class EmbeddedCatalog:
    """The documented set of the embedded system."""

    async def push_times(self) -> Mapping[str, float]:
        """See ImageCatalog."""
        return {tag: time.mktime(day.timetuple()) for tag, day in EMBEDDED.items()}

    async def refresh_push_times(self) -> Mapping[str, float]:
        """See ImageCatalog."""
        return await self.push_times()


def normalize_tag(tag: str) -> str:
    """``v4`` to ``4``, ``V3.1`` to ``3.1``; ``vfoo`` stays."""
    match = _SHORT.fullmatch(tag)
    return match[1] if match else tag


def resolve_tag(text: str, tags: Mapping[str, float]) -> str | None:
    """The tag that is meant, or None: exact, ``latest``, or the highest release below ``X`` or ``X.Y``."""
    tag = normalize_tag(text)
    if tag in tags:
        return tag
    releases = sorted(tuple(map(int, match.groups())) for match in map(_RELEASE.fullmatch, tags) if match)
    if tag != "latest":
        if _PART.fullmatch(tag) is None:
            return None
        wanted = tuple(map(int, tag.split(".")))
        releases = [release for release in releases if release[: len(wanted)] == wanted]
    return ".".join(map(str, releases[-1])) if releases else None


class ImageResolver:
    """Tags of requests to tags that exist and are new enough."""

    def __init__(self, catalog: ImageCatalog, *, minimum: str, known: ImageCatalog | None = None) -> None:
        """known: lists the minimum, which need not be available itself; default: the catalogue."""
        self._catalog = catalog
        self._minimum = minimum
        self._known = known or catalog

    async def resolve(self, text: str) -> str:
        """The resolved tag. Raises ImageNotFound, ImageTooOld, CatalogUnavailable."""
        try:
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                return await self._resolve(text)
        except TimeoutError as error:
            raise CatalogUnavailable("the image catalogue did not respond in time") from error

    async def _resolve(self, text: str) -> str:
        push_times = await self._catalog.push_times()
        tag = resolve_tag(text, push_times)
        if tag is None:
            push_times = await self._catalog.refresh_push_times()
            tag = resolve_tag(text, push_times)
        if tag is None:
            raise ImageNotFound("image not found")
        if push_times[tag] < await self._oldest():
            raise ImageTooOld(f"image is older than the minimum, {self._minimum}")
        return tag

    async def _oldest(self) -> float:
        """When the minimum was pushed, Unix seconds. Raises CatalogUnavailable: without it nobody can tell what is too old."""
        known = await self._known.push_times()
        minimum = resolve_tag(self._minimum, known)
        if minimum is None:
            logger.error("images.minimum-not-listed", minimum=self._minimum)
            raise CatalogUnavailable(f"the minimum image {self._minimum} is not in the image catalogue; contact the operators")
        return known[minimum]
