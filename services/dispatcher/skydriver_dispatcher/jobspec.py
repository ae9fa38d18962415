"""From a scan to its Kubernetes objects: one Job and one Secret. Pure. Source: REST contract 8.1 and 9.

The pod holds no credential of EWMS, of the object store or of the cluster. What it needs lies in the scan's own Secret: the
token for this one scan, and two keys that the bridge adds later, when EWMS has queues. Until they are there the kubelet does
not start the pod's containers: that is how the pod waits.
"""

import base64
from dataclasses import dataclass, field

from kubernetes_asyncio.client import (
    V1Capabilities,
    V1Container,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1EnvVarSource,
    V1Job,
    V1JobSpec,
    V1KeyToPath,
    V1LabelSelector,
    V1ObjectMeta,
    V1OwnerReference,
    V1PodSecurityContext,
    V1PodSpec,
    V1PodTemplateSpec,
    V1ResourceRequirements,
    V1SeccompProfile,
    V1Secret,
    V1SecretKeySelector,
    V1SecretVolumeSource,
    V1SecurityContext,
    V1TopologySpreadConstraint,
    V1Volume,
    V1VolumeMount,
)

from skydriver_common.kubernetes import names
from skydriver_common.model.priorities import URGENT_PRIORITY
from skydriver_common.model.scan import Scan
from skydriver_common.model.scanner_variables import TOKEN

SHARED_DIR = "/common-space"
STARTUP_FILE = f"{SHARED_DIR}/startup.json"
UPLOAD_DIR = "/run/skydriver"
WORKING_DIR = "/scan"
"""Where the scanner starts, and where its home and temporary files are: the root of its container is read-only."""

_SHARED, _WORKING, _SCRATCH, _PROFILE, _UPLOAD = (
    "common-space",
    "working-directory",
    "scratch",
    "queue-profile",
    "startup-upload",
)
_DISK = "8G"
"""What the scanner asks a node for (REST contract 9.2), and what each of its volumes may hold: a pod that fills one is evicted."""
_LABEL_LENGTH = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What is the same for all Jobs of an installation.

    instance: its name, in labels. image: the scanner's repository, the tag comes from the request. upload_image: SkyDriver's own.
    user_id: of the pod's processes and files; never 0. spread_over: node label over whose values pods are spread.
    deadline_s: the longest life of a scan. keep_finished_s: how long a finished Job stays for reading.
    """

    namespace: str
    instance: str
    image: str = "icecube/skymap_scanner"
    upload_image: str
    service_account: str | None = None
    user_id: int = 1000
    priority_class: str | None = None
    urgent_priority_class: str | None = None
    spread_over: str | None = None
    node_selector: dict[str, str] = field(default_factory=dict)
    deadline_s: int = 172_800
    keep_finished_s: int = 600


def job_of(scan: Scan, settings: JobSettings, environment: dict[str, str]) -> V1Job:
    """The scan's Job. environment: of the scanner container, without its token."""
    labels = _labels(scan, settings)
    name = names.job_name(scan.scan_id)
    return V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=V1ObjectMeta(
            name=name,
            namespace=settings.namespace,
            labels=labels,
            annotations={
                "argocd.argoproj.io/sync-options": "Prune=false",
                "argocd.argoproj.io/tracking-id": f"{settings.instance}:apps/Job:{settings.namespace}/{name}",
            },
        ),
        spec=V1JobSpec(
            parallelism=1,
            completions=1,
            backoff_limit=0,
            active_deadline_seconds=settings.deadline_s,
            ttl_seconds_after_finished=settings.keep_finished_s,
            template=V1PodTemplateSpec(
                metadata=V1ObjectMeta(labels={names.APP_LABEL: names.APP, **labels}),
                spec=_pod(scan, settings, environment),
            ),
        ),
    )


def secret_of(scan: Scan, settings: JobSettings, *, job_uid: str, token: str) -> V1Secret:
    """The scan's Secret, which goes when its Job goes. token: the scanner's, good for this scan alone."""
    return V1Secret(
        api_version="v1",
        kind="Secret",
        type="Opaque",
        metadata=V1ObjectMeta(
            name=names.secret_name(scan.scan_id),
            namespace=settings.namespace,
            labels=_labels(scan, settings),
            owner_references=[
                V1OwnerReference(
                    api_version="batch/v1", kind="Job", name=names.job_name(scan.scan_id), uid=job_uid, controller=True
                )
            ],
        ),
        data={names.TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    )


def label_value(text: str) -> str:
    """The text as a label's value: what Kubernetes does not allow there becomes ``_``, too much is cut off."""
    allowed = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in text)
    return allowed[:_LABEL_LENGTH].strip("-_.")


def priority_label(priority: int) -> str:
    """A priority as a label's value, which must not begin with a minus: ``minus-5``."""
    return str(priority) if priority >= 0 else f"minus-{-priority}"


def _labels(scan: Scan, settings: JobSettings) -> dict[str, str]:
    return {
        names.INSTANCE_LABEL: settings.instance,
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.SCAN_ID_LABEL: scan.scan_id,
        names.PRIORITY_LABEL: priority_label(scan.priority),
        names.IMAGE_LABEL: label_value(scan.request["docker_tag"]),
    }


def _pod(scan: Scan, settings: JobSettings, environment: dict[str, str]) -> V1PodSpec:
    return V1PodSpec(
        restart_policy="Never",
        service_account_name=settings.service_account,
        automount_service_account_token=False,
        enable_service_links=False,
        priority_class_name=_priority_class(scan, settings),
        node_selector=settings.node_selector or None,
        topology_spread_constraints=_spread(settings),
        security_context=V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=settings.user_id,
            run_as_group=settings.user_id,
            fs_group=settings.user_id,
            seccomp_profile=V1SeccompProfile(type="RuntimeDefault"),
        ),
        # a sidecar (its own restart policy): the pod ends with the scanner, whatever the upload does
        init_containers=[_upload(scan, settings)],
        containers=[_scanner(scan, settings, environment)],
        volumes=[
            *(
                V1Volume(name=name, empty_dir=V1EmptyDirVolumeSource(size_limit=_DISK))
                for name in (_SHARED, _WORKING, _SCRATCH)
            ),
            _secret_volume(scan, _PROFILE, names.PROFILE_KEY),
            _secret_volume(scan, _UPLOAD, names.UPLOAD_KEY),
        ],
    )


def _priority_class(scan: Scan, settings: JobSettings) -> str | None:
    if scan.priority >= URGENT_PRIORITY and settings.urgent_priority_class:
        return settings.urgent_priority_class
    return settings.priority_class


def _spread(settings: JobSettings) -> list[V1TopologySpreadConstraint] | None:
    if settings.spread_over is None:
        return None
    ours = {names.APP_LABEL: names.APP, names.INSTANCE_LABEL: settings.instance}
    return [
        V1TopologySpreadConstraint(
            max_skew=1,
            topology_key=settings.spread_over,
            when_unsatisfiable="ScheduleAnyway",
            label_selector=V1LabelSelector(match_labels=ours),
        )
    ]


def _scanner(scan: Scan, settings: JobSettings, environment: dict[str, str]) -> V1Container:
    memory = str(scan.request["scanner_server_memory_bytes"])
    return V1Container(
        name=names.scanner_container(scan.scan_id),
        image=f"{settings.image}:{scan.request['docker_tag']}",
        working_dir=WORKING_DIR,
        args=[_literal(word) for word in scan.scanner_server_args.split()],
        env=[V1EnvVar(name=name, value=_literal(value)) for name, value in environment.items() if name != TOKEN]
        + [
            V1EnvVar(
                name=TOKEN,
                value_from=V1EnvVarSource(
                    secret_key_ref=V1SecretKeySelector(name=names.secret_name(scan.scan_id), key=names.TOKEN_KEY)
                ),
            )
        ],
        resources=V1ResourceRequirements(
            requests={"cpu": "100m", "memory": memory, "ephemeral-storage": _DISK}, limits={"cpu": "1", "memory": memory}
        ),
        security_context=_locked_down(),
        termination_message_policy="FallbackToLogsOnError",  # the end of the log comes with the exit code
        volume_mounts=[
            V1VolumeMount(name=_SHARED, mount_path=SHARED_DIR),
            V1VolumeMount(name=_WORKING, mount_path=WORKING_DIR),
            V1VolumeMount(name=_SCRATCH, mount_path="/tmp"),  # noqa: S108  (for what ignores TMPDIR)
            V1VolumeMount(
                name=_PROFILE, mount_path=f"{SHARED_DIR}/{names.PROFILE_KEY}", sub_path=names.PROFILE_KEY, read_only=True
            ),
        ],
    )


def _upload(scan: Scan, settings: JobSettings) -> V1Container:
    return V1Container(
        name=names.upload_container(scan.scan_id),
        image=settings.upload_image,
        command=["python", "-m", "skydriver_dispatcher.startup_upload"],
        args=[STARTUP_FILE, f"{UPLOAD_DIR}/{names.UPLOAD_KEY}"],
        restart_policy="Always",
        resources=V1ResourceRequirements(
            requests={"cpu": "50m", "memory": "10M", "ephemeral-storage": "1M"}, limits={"cpu": "100m", "memory": "100M"}
        ),
        security_context=_locked_down(),
        termination_message_policy="FallbackToLogsOnError",
        volume_mounts=[
            V1VolumeMount(name=_SHARED, mount_path=SHARED_DIR, read_only=True),
            V1VolumeMount(name=_UPLOAD, mount_path=UPLOAD_DIR, read_only=True),
        ],
    )


def _secret_volume(scan: Scan, name: str, key: str) -> V1Volume:
    """A volume with one key of the scan's Secret; not optional, so the kubelet waits for the key."""
    return V1Volume(
        name=name,
        secret=V1SecretVolumeSource(
            secret_name=names.secret_name(scan.scan_id), default_mode=0o440, items=[V1KeyToPath(key=key, path=key)]
        ),
    )


def _locked_down() -> V1SecurityContext:
    return V1SecurityContext(
        allow_privilege_escalation=False,
        privileged=False,
        read_only_root_filesystem=True,
        run_as_non_root=True,
        capabilities=V1Capabilities(drop=["ALL"]),
    )


def _literal(text: str) -> str:
    """The text as the kubelet leaves it: ``$(NAME)`` would be replaced by a variable, ``$$`` is a plain dollar."""
    return text.replace("$", "$$")
