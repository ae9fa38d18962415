"""What handlers work with, under one typed key of the application."""

from dataclasses import dataclass, field

from aiohttp import web

from skydriver_api.commands.blob_writer import BlobWriter
from skydriver_api.commands.client import CommandClient
from skydriver_api.http.limits import MemoryLimits, WeightedSemaphore
from skydriver_api.images.resolver import ImageResolver
from skydriver_api.live.live_events import LiveEvents
from skydriver_api.live.viewer_hints import ViewerHints
from skydriver_api.reads.log_links import LogLinks
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.model.worker_limits import WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """clusters: name to the maximum of its workers with client logs, None: no maximum.

    searches: how many run at once, each holds a connection to the database. memory: for bodies and responses. event_pages: bytes of
    pages of events on their way into live streams. scan_token_grace_s: how long after a scan's end its token is still valid.
    large_filters: how many filters above 10 kB are read at once.
    """

    reads: ViewQueries
    blobs: BlobWriter
    commands: CommandClient
    images: ImageResolver
    live: LiveEvents
    log_links: LogLinks
    viewer_hints: ViewerHints
    clusters: dict[str, int | None]
    worker_limits: WorkerLimits
    user_variables: UserVariables
    searches: WeightedSemaphore
    memory: MemoryLimits
    event_pages: WeightedSemaphore
    scan_token_grace_s: float
    large_filters: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(1, what="large filters"))


DEPS = web.AppKey("deps", Deps)
