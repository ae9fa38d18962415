"""What handlers work with, under one typed key of the application."""

from dataclasses import dataclass

from aiohttp import web

from skydriver_api.blob_writer import BlobWriter
from skydriver_api.commander import Commander
from skydriver_api.eyes import Eyes
from skydriver_api.images import ImageResolver
from skydriver_api.live import LiveEvents
from skydriver_api.log_links import LogLinks
from skydriver_api.reads import Reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """clusters: name to its most workers with client logs, None: no cap."""

    reads: Reads
    blobs: BlobWriter
    commander: Commander
    images: ImageResolver
    live: LiveEvents
    links: LogLinks
    eyes: Eyes
    clusters: dict[str, int | None]


DEPS = web.AppKey("deps", Deps)
