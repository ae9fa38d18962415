"""What handlers work with, under one typed key of the application."""

from dataclasses import dataclass

from aiohttp import web

from skydriver_api.commands.blob_writer import BlobWriter
from skydriver_api.commands.client import CommandClient
from skydriver_api.http.limits import WeightedSemaphore
from skydriver_api.images.resolver import ImageResolver
from skydriver_api.live.live_events import LiveEvents
from skydriver_api.live.viewer_hints import ViewerHints
from skydriver_api.reads.log_links import LogLinks
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.model.worker_limits import WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """clusters: name to its most workers with client logs, None: no cap.

    searches: how many at once, each holds a connection to the database. body_bytes: of large bodies in memory at once,
    result_bytes: of answers above 1 MiB, answer_bytes: of those below, page_bytes: of pages of events on their way into live
    streams.
    scan_token_grace_s: how long after a scan's end its token is still good.
    """

    reads: ViewQueries
    blobs: BlobWriter
    commander: CommandClient
    images: ImageResolver
    live: LiveEvents
    links: LogLinks
    eyes: ViewerHints
    clusters: dict[str, int | None]
    worker_limits: WorkerLimits
    searches: WeightedSemaphore
    body_bytes: WeightedSemaphore
    result_bytes: WeightedSemaphore
    page_bytes: WeightedSemaphore
    answer_bytes: WeightedSemaphore
    scan_token_grace_s: float


DEPS = web.AppKey("deps", Deps)
