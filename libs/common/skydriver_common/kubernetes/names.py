"""Names, labels and keys of a scan's Kubernetes objects: functions of the scan id, the same in every service.

The dispatcher makes Job and Secret, the bridge fills the Secret in: both must call it the same.
"""

from skydriver_common.model.ids import ScanId

SCAN_ID_LABEL = "skydriver.icecube.wisc.edu/scan-id"
PRIORITY_LABEL = "skydriver.icecube.wisc.edu/priority"
IMAGE_LABEL = "skydriver.icecube.wisc.edu/scanner-tag"
INSTANCE_LABEL = "app.kubernetes.io/instance"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "skydriver-dispatcher"
APP_LABEL, APP = "app", "scanner-instance"

TOKEN_KEY = "scan-token"  # noqa: S105  (the key, not the token)
PROFILE_KEY = "ewms.json"
UPLOAD_KEY = "startup-upload.json"
"""Keys of the per-scan Secret. The first is there from the start, the pod waits for the other two."""


def job_name(scan_id: ScanId) -> str:
    """The scan's Job, and so its pod's prefix. Source: REST contract 9.1."""
    return f"skyscan-{scan_id}"


def secret_name(scan_id: ScanId) -> str:
    """The scan's Secret."""
    return f"skyscan-{scan_id}"


def scanner_container(scan_id: ScanId) -> str:
    """The container whose log the logs URL shows. Source: REST contract 8.7, 9.2."""
    return f"skyscan-server-{scan_id}"


def upload_container(scan_id: ScanId) -> str:
    """The container that uploads ``startup.json``. Source: REST contract 9.2."""
    return f"sidecar-s3-{scan_id}"


def selector(instance: str, scan_id: ScanId | None = None) -> str:
    """Label selector of this installation's objects, or of one scan's."""
    ours = f"{INSTANCE_LABEL}={instance},{MANAGED_BY_LABEL}={MANAGED_BY}"
    return ours if scan_id is None else f"{ours},{SCAN_ID_LABEL}={scan_id}"
