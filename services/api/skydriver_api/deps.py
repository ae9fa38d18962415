"""What handlers work with, under one typed key of the application."""

from dataclasses import dataclass

from aiohttp import web

from skydriver_api.blob_writer import BlobWriter
from skydriver_api.commander import Commander
from skydriver_api.eyes import Eyes
from skydriver_api.images import ImageResolver
from skydriver_api.limits import Budget
from skydriver_api.live import LiveEvents
from skydriver_api.log_links import LogLinks
from skydriver_api.reads import Reads
from skydriver_common.model.worker_limits import WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """clusters: name to its most workers with client logs, None: no cap.

    searches: how many at once, each holds a connection to the database. body_bytes: of large bodies in memory at once,
    result_bytes: of answers above 1 MiB, answer_bytes: of those below, page_bytes: of pages of events on their way into live
    streams.
    scan_token_grace_s: how long after a scan's end its token is still good.
    """

    reads: Reads
    blobs: BlobWriter
    commander: Commander
    images: ImageResolver
    live: LiveEvents
    links: LogLinks
    eyes: Eyes
    clusters: dict[str, int | None]
    worker_limits: WorkerLimits
    searches: Budget
    body_bytes: Budget
    result_bytes: Budget
    page_bytes: Budget
    answer_bytes: Budget
    scan_token_grace_s: float


DEPS = web.AppKey("deps", Deps)
