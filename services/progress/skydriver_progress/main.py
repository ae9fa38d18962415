"""Wires the progress service together."""

import gc
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from skydriver_common.auth import Issuer, JwksFile, TokenVerifier
from skydriver_common.bus import topology
from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Pool, open_pool
from skydriver_common.log import blobs
from skydriver_common.log.another_server import refuse_log_of_another_server
from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.runtime.connection_figures import PoolFigures, show_pool
from skydriver_common.runtime.metrics import Metrics
from skydriver_common.runtime.service import Service, run
from skydriver_common.runtime.service_resources import ServiceResources, open_resources, retry_until_available
from skydriver_progress import consumers
from skydriver_progress.adapters.batch_consumer import BatchConsumer
from skydriver_progress.backlog_gate import SETTLE_TIME_S, BacklogGate
from skydriver_progress.due_kinds import DueKind
from skydriver_progress.housekeeping import Housekeeping, ShortReplies
from skydriver_progress.ingest import Ingest
from skydriver_progress.retention import Retention
from skydriver_progress.scan_token_verifier import ScanTokenVerifier
from skydriver_progress.settings import ProgressSettings
from skydriver_progress.silence import SilenceWatch
from skydriver_progress.silence_reconciler import INTERVAL_S, LOOP_NAME, SilenceReconciler
from skydriver_progress.state_figures import STATE_INTERVAL_S, StateFigures

_IDLE_S = 60.0
_POOL_SIZE = 6
"""Two connections for each of the three batch consumers; commands from the gateway have a pool of their own."""
_LIMITS = {"progress": (0, 1000), "result": (4, 4), "failure": (16, 16)}
"""Kind to its prefetch (0: as set) and its maximum number of messages in one transaction."""


def main() -> None:
    """Run the service until SIGTERM."""
    settings = ProgressSettings.load()

    async def build(service: Service) -> None:
        foundation = await open_resources(service, settings)
        retention = Retention(foundation.uow, foundation.schedule, keep=settings.keep_progress)
        batch_consumers: list[BatchConsumer] = []
        gate = BacklogGate(
            partial(_have_no_backlog, batch_consumers), settle_time_s=min(SETTLE_TIME_S, settings.scanner_silence_timeout_s)
        )
        silence = SilenceWatch(
            foundation.uow, foundation.schedule, gate, limit=timedelta(seconds=settings.scanner_silence_timeout_s)
        )
        housekeeping = Housekeeping(foundation.pool, foundation.schedule, keep=settings.keep_replies)
        short_replies = ShortReplies(foundation.pool, foundation.schedule)
        steps = (
            (DueKind.COMPACT, "retention", retention.step),
            (DueKind.SILENCE, "silence", silence.step),
            (DueKind.HOUSEKEEPING, "housekeeping", housekeeping.step),
            (DueKind.SHORT_REPLIES, "short-replies", short_replies.step),
        )
        for kind, name, step in steps:
            foundation.wake_when_due([kind], service.loop(name, step, idle_s=_IDLE_S))
        service.loop(LOOP_NAME, SilenceReconciler(foundation.pool, silence).step, idle_s=INTERVAL_S)
        figures = StateFigures(foundation.pool, foundation.bus, service.metrics)
        service.loop("figures", figures.step, idle_s=STATE_INTERVAL_S)
        consumers.register(foundation.broker, foundation.uow, retention, silence)
        await foundation.start_consuming()
        batch_consumers += await _start_batch_consumers(service, foundation, settings, retention)
        _collect_garbage_rarely()

    run("progress", settings, build)


def _collect_garbage_rarely() -> None:
    """Parsed reports are many small objects without cycles: looking for cycles in them was a fifth of the time spent on each."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _have_no_backlog(batch_consumers: Sequence[BatchConsumer]) -> bool:
    """Whether they are all consuming, with nothing that waits for long."""
    return bool(batch_consumers) and all([await each.has_no_backlog() for each in batch_consumers])


def _count(metrics: Metrics, kind: str, queue: str, outcome: str, seconds: float) -> None:
    metrics.command_handled(queue, outcome, seconds)
    metrics.counter("skydriver_scanner_messages").labels(kind, outcome).inc()


async def _start_batch_consumers(
    service: Service, foundation: ServiceResources, settings: ProgressSettings, retention: Retention
) -> list[BatchConsumer]:
    """Start a batch consumer for each kind of message, all on a pool of their own."""

    async def open_ingest_pool() -> Pool:
        with database_faults():
            url = settings.database_url.get_secret_value()
            return await open_pool(
                url, name="progress-ingest", size=_POOL_SIZE, check=refuse_log_of_another_server,
                observer=PoolFigures(service.metrics, "progress-ingest"),
            )  # fmt: skip

    pool = await retry_until_available(open_ingest_pool)
    show_pool(service.metrics, pool, "progress-ingest")
    service.stack.push_async_callback(pool.close)
    issuer, keys = settings.token_issuer
    verifier = TokenVerifier([Issuer(issuer, JwksFile(keys))], audience=settings.auth_audience)

    batch_consumers = []
    for kind in topology.SCANNER_KINDS:
        prefetch, max_batch = _LIMITS[kind]
        uow = UnitOfWork(
            pool, foundation.notifier, writer=service.name, on_appended=service.metrics.events_appended,
            on_ended=service.metrics.scan_ended,
        )  # fmt: skip
        ingest = Ingest(
            pool, foundation.notifier, uow, ScanTokenVerifier(verifier),
            coalesces=settings.coalesce_progress, token_grace_s=settings.scan_token_grace_s, retention=retention,
        )  # fmt: skip
        consumer = BatchConsumer(
            settings.amqp_url.get_secret_value(), topology.scanner_queue(kind), ingest,
            prefetch=prefetch or settings.ingest_prefetch, max_batch=max_batch, stopping=service.stopping,
            settled=partial(_count, service.metrics, kind), dead_lettered=service.metrics.message_dead_lettered,
            can_write=partial(blobs.can_be_written, foundation.pool),
        )  # fmt: skip
        service.spawn(f"consumer.{kind}", consumer.run())
        service.ready_check(f"queue {consumer.name}", partial(getattr, consumer, "is_consuming"))
        batch_consumers.append(consumer)
    return batch_consumers
