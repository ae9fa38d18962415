"""The release before this one: its commit, what it knew, and its code, for tests that run both beside each other.

When an issue begins, COMMIT becomes the last commit before it, and the constants below what that commit has.
"""

import atexit
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

from skydriver_common.runtime.settings import OLD_NAMES

COMMIT = "60b5a373231044de065af3425acb3bcb957acbae"
MODULES = {"ewms_bridge": "skydriver_ewms"}
"""Services whose package had another name."""
NEW_SETTINGS = frozenset({"SKYDRIVER_USER_ENV_ALLOW"})
"""What `skydriver up` sets since then."""
STATE_VERSION = 1
STATE_FIELDS: dict[str, frozenset[str]] = {
    "Scan": frozenset(
        [
            "scan_id",
            "version",
            "timestamp",
            "last_updated",
            "scanner_server_args",
            "priority",
            "classifiers",
            "i3_event_id",
            "request",
            "request_scan_id",
            "event_digest",
            "is_deleted",
            "ewms_workflow_id",
            "ewms_address",
            "event_metadata",
            "scan_metadata",
            "progress",
            "replaced_by_scan_id",
            "rescan_ids",
            "launch",
            "result",
            "ewms",
            "producer",
            "sequence",
            "scanner",
        ]
    ),
    "Launch": frozenset(
        [
            "state",
            "attempts",
            "taken_at",
            "launcher",
            "job",
            "restarts",
            "reason",
            "log_tail",
            "failures",
            "is_deferred",
            "stage",
            "trouble",
            "exit_code",
        ]
    ),
    "ResultRef": frozenset(["digest", "size_bytes", "is_final", "producer", "sequence"]),
    "Ewms": frozenset(
        [
            "deactivated",
            "refused",
            "queues",
            "statuses",
            "n_running",
            "top_errors",
            "taskforces_added",
            "n_top_ups",
            "topped_up_at",
            "n_came_back",
            "place_in_line",
            "tokens_end_at",
            "are_tokens_ending",
            "is_startup_file_missing",
            "problems",
        ]
    ),
    "Scanner": frozenset(
        [
            "heard_at",
            "silent_since",
            "failure",
            "log_tail",
            "failure_producer",
            "failure_sequence",
            "producer",
            "took_over_at",
            "past_producers",
            "refusals",
            "ended_at",
        ]
    ),
}
MIGRATIONS = frozenset(
    (
        "0001_common_event_log", "0010_api_find_indexes", "0010_ewms_bridge_watch", "0020_api_due_work_indexes",
        "0030_common_break_glass", "0031_common_housekeeping", "0040_dispatcher_throttle", "0041_dispatcher_claim_indexes",
        "0050_ewms_bridge_problems", "0051_ewms_bridge_outages", "0052_ewms_bridge_top_up", "0060_progress_compaction",
        "0061_progress_due_work", "0070_common_drop_consumed_events", "0071_common_break_glass_first",
        "0075_dispatcher_room_and_cap", "0076_dispatcher_one_throttle",
    )
)  # fmt: skip
"""Applied everywhere: they are never changed, and the rules for new ones do not hold for them."""

_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("libs", "services", "sandbox")


@cache
def python() -> str:
    """The interpreter of an environment with the code of the release before, and the packages of this one. Skips the test where
    its history is not at hand."""
    try:
        packed = subprocess.run(
            ["git", "-C", str(_REPOSITORY), "archive", "--format=tar", COMMIT, *_PACKAGES],
            capture_output=True, check=True, timeout=600,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"NOT RUN: history ({COMMIT[:12]} is not in this checkout)")
    folder = Path(tempfile.mkdtemp(prefix="skydriver previous release "))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder / "code", filter="data")
    venv.create(folder / "venv", symlinks=True)
    files = (folder / "code").rglob("skydriver_*/__init__.py")
    roots = {file.parent.parent for file in files}
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    # in a path file, so that what it starts in turn has the same; the packages' own path files, which lead here, are not read
    (packages / "code.pth").write_text("\n".join([*sorted(str(root) for root in roots), sysconfig.get_paths()["purelib"]]))
    return str(folder / "venv" / "bin" / "python")


def module_of(service: str, today: str) -> str:
    """The package of a service in that release. today: its name now."""
    return MODULES.get(service, today)


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The same settings under the names that release knows; it refuses to start on others."""
    former = {new: old for old, new in OLD_NAMES.items()}
    return {former.get(name, name): value for name, value in environment.items() if name not in NEW_SETTINGS}
