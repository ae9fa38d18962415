"""Wires the EWMS bridge together."""

from datetime import timedelta
from functools import partial

from skydriver_common.db.notifier import VIEWER_HINTS_CHANNEL
from skydriver_common.db.pool import Listener
from skydriver_common.kubernetes.client import ClusterConfigError, open_client
from skydriver_common.runtime.due_work import Handler
from skydriver_common.runtime.loops import LoopSignals
from skydriver_common.runtime.metrics import Metrics
from skydriver_common.runtime.service import Service, StartupProblem, run
from skydriver_common.runtime.service_resources import open_resources
from skydriver_ewms_bridge import consumers
from skydriver_ewms_bridge.adapters.ewms_rest import open_ewms
from skydriver_ewms_bridge.adapters.object_store import open_store
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.adapters.profile_secrets import ProfileSecrets
from skydriver_ewms_bridge.breaker import PROBE, Breaker
from skydriver_ewms_bridge.decide.worker_replacement import ReplacementPolicy
from skydriver_ewms_bridge.due_kinds import WORKFORCE, DueKind
from skydriver_ewms_bridge.due_work import consumer
from skydriver_ewms_bridge.ewms_figures import EwmsFigures
from skydriver_ewms_bridge.ports import CredentialSink
from skydriver_ewms_bridge.reconciliation import RECONCILE, Reconciliation
from skydriver_ewms_bridge.retry_policy import IDLE_S, RECONCILIATION_INTERVAL_S, WRITE_TIMEOUT_S
from skydriver_ewms_bridge.settings import BridgeSettings
from skydriver_ewms_bridge.start_checks import StartChecks
from skydriver_ewms_bridge.taskforces import Taskforces
from skydriver_ewms_bridge.teardown import Teardown
from skydriver_ewms_bridge.usecases import UseCases
from skydriver_ewms_bridge.viewer_hints import VIEWER_HINTS, ViewerHints
from skydriver_ewms_bridge.worker_replacement import WorkerReplacement
from skydriver_ewms_bridge.worker_requests import WorkerRequests
from skydriver_ewms_bridge.workflows import Workflows
from skydriver_ewms_bridge.workforce import Workforces

WORKERS_PER_KIND = {
    DueKind.ASSIGN: 4, DueKind.STOP: 4, DueKind.QUEUES: 2, DueKind.ADDITIONS: 1, DueKind.DUPLICATES: 1,
    DueKind.STOP_VERIFICATION: 1, DueKind.STARTUP: 1, DueKind.TOKENS: 1, DueKind.REPLACEMENT: 1,
}  # fmt: skip
"""Loops per kind of work: a request that EWMS does not respond to must not hold up the other scans."""


async def build(service: Service, settings: BridgeSettings) -> None:
    """Open everything the bridge works with, and start it."""
    foundation = await open_resources(service, settings)
    breaker = Breaker(foundation.pool, foundation.notifier, longest_pause_s=settings.ewms_probe_max_interval_s)
    ewms = await service.stack.enter_async_context(
        open_ewms(
            url=settings.ewms_url,
            issuer=settings.ewms_issuer,
            client_id=settings.ewms_client_id,
            client_secret=settings.ewms_client_secret,
            instance=settings.instance,
            write_timeout_s=WRITE_TIMEOUT_S,
            guard=breaker,
            on_call=partial(_count_call, service.metrics),
        )
    )
    objects = await service.stack.enter_async_context(
        open_store(
            url=settings.s3_url,
            key_id=settings.s3_key_id,
            secret=settings.s3_secret,
            bucket=settings.s3_bucket,
            region=settings.s3_region,
        )
    )
    sink = await _sink(service, settings)
    pool, uow, schedule = foundation.pool, foundation.uow, foundation.schedule
    usecases = UseCases(uow, schedule, teardown_delay=settings.teardown_delay, startup_limit=settings.startup_limit)
    workflows = Workflows(pool, usecases, schedule, ewms, objects, sink, settings)
    teardown = Teardown(usecases, ewms, sink)
    checks = StartChecks(usecases, objects)
    taskforces = Taskforces(pool, usecases, ewms)
    additions = WorkerRequests(pool, uow, schedule, ewms, unclear_wait=settings.unclear_wait, limits=settings.worker_limits)
    policy = ReplacementPolicy(
        is_wanted=settings.replace_workers,
        most_times=settings.replace_workers_max_batches,
        pause_s=settings.replace_workers_pause_s,
    )
    replacement = WorkerReplacement(usecases, schedule, ewms, additions, policy)
    workforces = Workforces(
        pool,
        usecases,
        ewms,
        interval=timedelta(seconds=settings.workforce_interval_s),
        fast_interval=timedelta(seconds=settings.workforce_fast_interval_s),
        open_for_s=breaker.open_for_s,
        replacement=replacement,
    )
    handlers: dict[DueKind, Handler] = {
        DueKind.ASSIGN: workflows.assign, DueKind.DUPLICATES: workflows.duplicates, DueKind.QUEUES: workflows.queues,
        DueKind.STOP: teardown.stop, DueKind.STOP_VERIFICATION: teardown.verify_stop, DueKind.STARTUP: checks.startup,
        DueKind.TOKENS: checks.tokens, DueKind.ADDITIONS: additions.resolve, DueKind.REPLACEMENT: replacement.replace,
    }  # fmt: skip
    for kind in DueKind:
        for number in range(WORKERS_PER_KIND[kind]):
            work = consumer(schedule, kind, handlers[kind], open_for_s=breaker.open_for_s)
            foundation.wake_when_due([kind], service.loop(f"{kind}-{number}", work.step, idle_s=IDLE_S))
    reconciliation = Reconciliation(pool, usecases, schedule, unclear_wait=settings.unclear_wait)
    service.loop(RECONCILE, reconciliation.step, idle_s=RECONCILIATION_INTERVAL_S)
    probing = service.loop(PROBE, lambda: breaker.probe(ewms.ping), idle_s=IDLE_S)
    foundation.wake_when_due([PROBE], probing)
    service.loop("figures", EwmsFigures(pool, breaker, service.metrics).step, idle_s=IDLE_S)
    pulse = service.loop(WORKFORCE, workforces.refresh, idle_s=IDLE_S)
    foundation.wake_when_due([WORKFORCE], pulse)
    watching = LoopSignals()
    hints = ViewerHints(workforces.note_viewers, pulse.wake, watching)
    service.loop(VIEWER_HINTS, hints.step, idle_s=IDLE_S, pulse=watching)
    listener = Listener(
        settings.database_url.get_secret_value(), {VIEWER_HINTS_CHANNEL: hints.seen}, name=f"{service.name}-eyes"
    )
    service.spawn("eyes", listener.run(service.stopping))
    consumers.register(foundation.broker, usecases, additions, taskforces)
    await foundation.start_consuming()


def _count_call(metrics: Metrics, call: str, outcome: str, seconds: float) -> None:
    metrics.counter("skydriver_ewms_requests").labels(call, outcome).inc()
    metrics.histogram("skydriver_ewms_request_duration_seconds").labels(call).observe(seconds)


async def _sink(service: Service, settings: BridgeSettings) -> CredentialSink:
    if settings.credential_delivery == "files":
        assert settings.work_dir is not None
        return ProfileFiles(settings.work_dir)
    assert settings.kubernetes_namespace is not None
    try:
        client = await service.stack.enter_async_context(open_client(on_request=service.metrics.kubernetes_request))
    except ClusterConfigError as problem:
        raise StartupProblem(str(problem)) from problem
    return ProfileSecrets(client, namespace=settings.kubernetes_namespace, timeout_s=settings.kubernetes_timeout_s)


def main() -> None:
    """Run the service until a signal stops it."""
    settings = BridgeSettings.load()

    async def start(service: Service) -> None:
        await build(service, settings)

    run("ewms_bridge", settings, start)
