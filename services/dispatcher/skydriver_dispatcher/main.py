"""Wires the dispatcher together."""

import os
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from skydriver_common.auth import TokenSigner
from skydriver_common.kubernetes.client import ClusterConfigError, open_client
from skydriver_common.model import scanner_variables
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.runtime.loops import LoopSignals
from skydriver_common.runtime.service import Service, StartupProblem, run
from skydriver_common.runtime.service_resources import ServiceResources, open_resources
from skydriver_dispatcher import consumers, store
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.launcher import KubernetesLauncher
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from skydriver_dispatcher.adapters.local import SANDBOX_SCANNER, LocalLauncher
from skydriver_dispatcher.adapters.scanner_queue import ScannerQueue
from skydriver_dispatcher.bus_environment import bus_environment
from skydriver_dispatcher.due_kinds import DueKind
from skydriver_dispatcher.jobspec import SHARED_DIR, WORKING_DIR, JobSettings
from skydriver_dispatcher.launch_figures import FIGURES_INTERVAL_S, LaunchFigures
from skydriver_dispatcher.launch_steps import LaunchSteps
from skydriver_dispatcher.pending_events import PendingEvents
from skydriver_dispatcher.ports import Launcher
from skydriver_dispatcher.scanner_environment import scanner_environment
from skydriver_dispatcher.settings import TOKEN_LIFE_S, DispatcherSettings
from skydriver_dispatcher.usecases import UseCases
from skydriver_dispatcher.watchdog import Watchdog

_IDLE_S = 30.0
_RECONCILE_S = 300.0
_STOP_WORKERS = 2
_PLACE_S = 120.0
"""So long after a leader last renewed, another namespace or instance name may lead for the same database."""
_DIVERGENCE_LIMIT = timedelta(minutes=10)
"""Time enough for a rollout to stop at a replica that is not ready, and for an operator to look."""


def main() -> None:
    """Run the service until it is told to stop."""
    settings = DispatcherSettings.load()

    async def build(service: Service) -> None:
        token = _tokens(settings)
        foundation = await open_resources(service, settings)
        await store.set_throttle_defaults(
            foundation.pool, interval_s=settings.launch_interval_s, max_running=settings.max_running_scans
        )
        if settings.launcher == "kubernetes":
            await _on_kubernetes(service, settings, foundation, token)
        else:
            await _on_this_machine(service, settings, foundation, token)
        await foundation.start_consuming()

    run("dispatcher", settings, build)


class _Tokens:
    """Makes the token of one scan."""

    def __init__(self, signer: TokenSigner) -> None:
        self._signer = signer

    def __call__(self, scan_id: ScanId) -> str:
        return self._signer.scan_token(ScanId(scan_id), datetime.now(UTC) + timedelta(seconds=TOKEN_LIFE_S))


def _tokens(settings: DispatcherSettings) -> _Tokens:
    try:
        if settings.work_dir is not None and settings.launcher == "local":
            settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _Tokens(
            TokenSigner.from_file(settings.scan_token_key_file, issuer=settings.auth_issuer, audience=settings.auth_audience)
        )
    except OSError as error:
        raise StartupProblem(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise StartupProblem(f"SKYDRIVER_SCAN_TOKEN_KEY_FILE: {error}") from error


async def _on_this_machine(
    service: Service, settings: DispatcherSettings, foundation: ServiceResources, token: _Tokens
) -> None:
    assert settings.work_dir is not None
    launcher = LocalLauncher(
        settings.work_dir.resolve(),
        partial(_process_environment, settings, token),
        command=settings.scanner_words or SANDBOX_SCANNER,
    )
    service.stack.push_async_callback(launcher.close)
    _start(service, settings, foundation, launcher, LoopSignals())


async def _on_kubernetes(service: Service, settings: DispatcherSettings, foundation: ServiceResources, token: _Tokens) -> None:
    try:
        client = await service.stack.enter_async_context(open_client(on_request=service.metrics.kubernetes_request))
    except ClusterConfigError as problem:
        raise StartupProblem(str(problem)) from problem
    jobs = _job_settings(settings)
    pending = PendingEvents()
    launcher = KubernetesLauncher(
        client,
        jobs,
        environment=partial(
            scanner_environment,
            address=settings.public_url,
            profile_path=f"{SHARED_DIR}/ewms.json",
            working_dir=WORKING_DIR,
            bus=bus_environment(settings.scanner_bus_url, f"{SHARED_DIR}/spool"),
            forwarded=settings.forwarded,
            allowed=settings.user_variables,
        ),
        token=token,
        events=pending,
        timeout_s=settings.kubernetes_timeout_s,
    )
    leadership = Leadership(
        client, namespace=jobs.namespace, name=f"skydriver-dispatcher-{jobs.instance}".lower().replace("_", "-"),
        holder=service.replica, lease_s=settings.kubernetes_lease_s,
        timeout_s=min(settings.kubernetes_timeout_s, settings.kubernetes_lease_s / 3),
        installation=await store.installation_id(foundation.pool),
        may_lead=partial(store.lead_from, foundation.pool, f"{jobs.namespace}/{jobs.instance}", for_s=_PLACE_S),
    )  # fmt: skip
    service.ready_check("installation", lambda: not leadership.is_misplaced)
    service.metrics.show("skydriver_watch_leads", lambda: float(leadership.leads))
    service.metrics.show("skydriver_leader", lambda: float(leadership.leads), "watch")
    reconcile = LoopSignals()
    informer = JobInformer(client, jobs, leadership, pending, on_listed=reconcile.wake, timeout_s=settings.kubernetes_timeout_s)
    watchdog = _start(service, settings, foundation, launcher, reconcile, leadership)
    service.ready_check("reconciled", lambda: not watchdog.n_suspended)
    service.metrics.show("skydriver_reconcile_in_doubt", lambda: float(watchdog.n_suspended))
    service.spawn("cluster-watch", informer.run(service.stopping))


def _start(
    service: Service,
    settings: DispatcherSettings,
    foundation: ServiceResources,
    launcher: Launcher,
    reconcile: LoopSignals,
    leadership: Leadership | None = None,
) -> Watchdog:
    """The loops and consumers that every launcher has."""
    pool, uow, schedule = foundation.pool, foundation.uow, foundation.schedule
    usecases = UseCases(pool, uow)
    delays = service.metrics.histogram("skydriver_scan_launch_delay_seconds")
    steps = LaunchSteps(
        pool, uow, schedule, launcher, max_attempts=settings.max_launch_attempts,
        on_launched=lambda is_urgent, seconds: delays.labels("urgent" if is_urgent else "normal").observe(seconds),
    )  # fmt: skip
    queue = ScannerQueue(settings.amqp_url.get_secret_value(), name="dispatcher-results")
    service.stack.push_async_callback(queue.close)
    watchdog = Watchdog(
        pool, uow, schedule, launcher, usecases, result_grace=timedelta(seconds=settings.final_result_grace_s),
        trouble_limit=timedelta(seconds=settings.scanner_start_timeout_s),
        divergence_limit=timedelta(0) if launcher.can_restart_in_place else _DIVERGENCE_LIMIT,
        unknown_limit=timedelta(0) if launcher.can_restart_in_place else _DIVERGENCE_LIMIT,
        may_act=lambda: leadership is None or leadership.leads, have_arrived=queue.is_drained,
    )  # fmt: skip
    for number in range(settings.max_concurrent_launches):
        foundation.wake_when_due([DueKind.LAUNCH], service.loop(f"launch-{number}", steps.new_worker(), idle_s=_IDLE_S))
    foundation.wake_when_due([DueKind.LAUNCH], service.loop("launch-urgent", steps.new_urgent_worker(), idle_s=_IDLE_S))
    for number in range(_STOP_WORKERS):
        foundation.wake_when_due([DueKind.STOP], service.loop(f"stop-{number}", steps.stop_next, idle_s=_IDLE_S))
    foundation.wake_when_due([DueKind.RELAUNCH], service.loop("relaunch", watchdog.relaunch, idle_s=_IDLE_S))
    foundation.wake_when_due([DueKind.END], service.loop("settle", watchdog.judge_exit, idle_s=_IDLE_S))
    foundation.wake_when_due([DueKind.CHECK], service.loop("check", watchdog.check_stuck, idle_s=_IDLE_S))
    service.loop("reconcile-queues", usecases.reconcile_queues, idle_s=_RECONCILE_S)
    service.loop("reconcile", watchdog.reconcile, idle_s=_RECONCILE_S, pulse=reconcile)
    service.loop("figures", LaunchFigures(pool, service.metrics).step, idle_s=FIGURES_INTERVAL_S)
    launcher.events.on_event(service.loop("news", watchdog.handle_event, idle_s=_IDLE_S).wake)
    consumers.register(foundation.broker, usecases)
    return watchdog


def _job_settings(settings: DispatcherSettings) -> JobSettings:
    assert settings.kubernetes_namespace is not None
    assert settings.instance is not None
    assert settings.upload_image is not None
    return JobSettings(
        namespace=settings.kubernetes_namespace,
        instance=settings.instance,
        image=settings.scanner_image,
        upload_image=settings.upload_image,
        service_account=settings.scanner_service_account,
        user_id=settings.scanner_user_id,
        priority_class=settings.scanner_priority_class,
        urgent_priority_class=settings.scanner_urgent_priority_class,
        spread_over=settings.scanner_topology_key,
        node_selector=settings.scanner_node_selector,
        deadline_s=settings.scanner_max_runtime_s,
        keep_finished_s=settings.scanner_job_ttl_s,
    )


def _process_environment(settings: DispatcherSettings, token: _Tokens, scan: Scan, folder: Path) -> dict[str, str]:
    """Of a scanner server that is a process here: it gets its token directly, and uploads ``startup.json`` itself."""
    inherited = ("PATH", "LANG", "TZ", "PYTHONDONTWRITEBYTECODE")
    base = {name: os.environ[name] for name in inherited if name in os.environ}
    sandbox = {name: value for name, value in os.environ.items() if name.startswith("SANDBOX_SCAN")}
    environment = scanner_environment(
        scan,
        address=settings.public_url,
        profile_path=str(folder / "ewms.json"),
        working_dir=str(folder),
        bus=bus_environment(settings.scanner_bus_url, str(folder / "spool")),
        forwarded=settings.forwarded,
        base=base | sandbox,
        allowed=settings.user_variables,
    )
    return environment | {
        scanner_variables.UPLOAD: str(folder / "startup-upload.json"),
        scanner_variables.TOKEN: token(scan.scan_id),
    }
