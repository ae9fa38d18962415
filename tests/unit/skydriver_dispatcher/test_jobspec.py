"""The Kubernetes objects of a scan: as a whole beside this file, and what must hold for any request."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_asyncio.client import ApiClient, Configuration
from pydantic import SecretStr

from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.model.scanner_variables import RESERVED, directories
from skydriver_common.model.steering_variables import UserVariables
from skydriver_dispatcher.bus_environment import bus_environment
from skydriver_dispatcher.jobspec import WORKING_DIR, JobSettings, job_of, label_value, priority_label, secret_of
from skydriver_dispatcher.scanner_environment import scanner_environment
from tests.support.launchers import JOBS, a_queued_scan

SCAN_ID = ScanId("0193a1b2c3dx0123456789abcdef0123")
SNAPSHOT = Path(__file__).with_name("job.json")
LABEL = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"


def plain(item: Any) -> Any:
    """As it goes over the wire."""
    client = ApiClient.__new__(ApiClient)
    client.configuration = Configuration()
    return client.sanitize_for_serialization(item)


def job_for(scan: Scan, settings: JobSettings = JOBS) -> Any:
    environment = scanner_environment(
        scan, address="https://skydriver", profile_path="/common-space/ewms.json", working_dir=WORKING_DIR,
        bus=bus_environment(SecretStr("amqps://bus"), "/common-space/spool"),
        forwarded={"SKYSCAN_PROGRESS_INTERVAL_SEC": 3600, "SKYSCAN_RESULT_INTERVAL_SEC": None, "SKYSCAN_LOG": "DEBUG"},
    )  # fmt: skip
    return plain(job_of(scan, settings, environment))


def test_the_objects_are_as_written_down() -> None:
    settings = JobSettings(
        namespace="icecube", instance="skydriver-prod", upload_image="skydriver:2.0", service_account="scanner",
        priority_class="scans", urgent_priority_class="alerts", spread_over="kubernetes.io/hostname",
        node_selector={"pool": "scan"},
    )  # fmt: skip
    scan = a_queued_scan(SCAN_ID, priority=100, scanner_server_env_from_user={"MINE": True, "RATE": 0.5, "UNSET": None})
    made = {
        "job": job_for(scan, settings),
        "secret": plain(secret_of(scan, settings, job_uid="a-uid", token="a-token")),
    }
    text = json.dumps(made, indent=1, sort_keys=True) + "\n"
    if os.environ.get("SKYDRIVER_TEST_WRITE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "set SKYDRIVER_TEST_WRITE_SNAPSHOTS=1 to accept it"


def test_what_the_contract_wants_of_the_scanner_container() -> None:
    scan = a_queued_scan(SCAN_ID, scanner_server_memory_bytes=2_000_000_000)
    pod = job_for(scan)["spec"]["template"]["spec"]
    (scanner,) = pod["containers"]
    assert scanner["name"] == f"skyscan-server-{SCAN_ID}"
    assert scanner["args"] == scan.scanner_server_args.split()
    assert "command" not in scanner
    assert scanner["resources"]["limits"] == {"cpu": "1", "memory": "2000000000"}
    assert scanner["resources"]["requests"] == {"cpu": "100m", "memory": "2000000000", "ephemeral-storage": "8G"}
    names = [each["name"] for each in scanner["env"]]
    assert len(names) == len(set(names))
    assert {"SKYSCAN_EWMS_PILOT_LOG", "SKYSCAN_MQ_CLIENT_LOG", "SKYSCAN_LOG", "SKYSCAN_PROGRESS_INTERVAL_SEC"} <= set(names)
    assert "SKYSCAN_RESULT_INTERVAL_SEC" not in names
    assert {"name": "SKYSCAN_PROGRESS_INTERVAL_SEC", "value": "3600"} in scanner["env"]


def test_the_scanner_starts_in_a_limited_volume_and_writes_nowhere_else() -> None:
    pod = job_for(a_queued_scan())["spec"]["template"]["spec"]
    (scanner,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in scanner["volumeMounts"]}
    assert scanner["workingDir"] == WORKING_DIR
    assert "readOnly" not in mounts[WORKING_DIR]
    assert "subPath" not in mounts[WORKING_DIR]
    limits = {each["name"]: each["emptyDir"]["sizeLimit"] for each in pod["volumes"] if "emptyDir" in each}
    assert mounts[WORKING_DIR]["name"] in limits
    environment = {each["name"]: each.get("value") for each in scanner["env"]}
    assert {name: environment[name] for name in directories(WORKING_DIR)} == directories(WORKING_DIR)
    assert environment["HOME"] == environment["TMPDIR"] == WORKING_DIR  # nobody would make another folder in it


@pytest.mark.parametrize("priority", [99, 100])
def test_an_urgent_scan_may_have_its_own_priority_class(priority: int) -> None:
    settings = JobSettings(
        namespace="n", instance="i", upload_image="u", priority_class="scans", urgent_priority_class="alerts"
    )  # fmt: skip
    pod = job_for(a_queued_scan(priority=priority), settings)["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == ("alerts" if priority >= 100 else "scans")


@pytest.mark.parametrize(("allowed", "kept"), [("*", {"MINE", "SKYSCAN_LOG"}), ("SKYSCAN_*", {"SKYSCAN_LOG"}), ("", set())])
def test_what_a_stored_request_may_not_set_any_more_is_left_out(allowed: str, kept: set[str]) -> None:
    wanted = {
        "PYTHONWARNINGS": "all:0:antigravity.x:0:0",
        "BROWSER": "sh -c id",
        "MINE": "1",
        "SKYSCAN_LOG": "DEBUG",
        "HOME": "/x",
    }
    environment = scanner_environment(
        a_queued_scan(SCAN_ID, scanner_server_env_from_user=wanted), address="https://skydriver", profile_path="/p",
        working_dir="/w", bus={}, forwarded={}, allowed=UserVariables.parse(allowed),
    )  # fmt: skip
    assert kept == environment.keys() & {"PYTHONWARNINGS", "BROWSER", "MINE", "SKYSCAN_LOG"}
    assert environment["HOME"] == "/w"


_NAMES = st.sampled_from(sorted(RESERVED)) | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
_VALUES = st.text(max_size=30) | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.none()


@given(wanted=st.dictionaries(_NAMES, _VALUES, max_size=8), priority=st.integers(), tag=st.text(min_size=1, max_size=100))
def test_whatever_a_user_asks_for_ours_stands_and_labels_are_valid(wanted: dict[str, Any], priority: int, tag: str) -> None:
    scan = a_queued_scan(SCAN_ID, priority=priority, docker_tag=tag, scanner_server_env_from_user=wanted)
    job = job_for(scan)
    (scanner,) = job["spec"]["template"]["spec"]["containers"]
    by_name = {each["name"]: each for each in scanner["env"]}
    assert len(by_name) == len(scanner["env"])
    assert by_name["SKYSCAN_SKYDRIVER_ADDRESS"]["value"] == "https://skydriver"
    assert by_name["SKYSCAN_SKYDRIVER_SCAN_ID"]["value"] == SCAN_ID
    assert by_name["SKYSCAN_EWMS_JSON"]["value"] == "/common-space/ewms.json"
    assert "value" not in by_name["SKYSCAN_SKYDRIVER_AUTH"]
    assert by_name["HOME"]["value"] == WORKING_DIR
    assert by_name["SKYSCAN_SKYDRIVER_AUTH"]["valueFrom"]["secretKeyRef"] == {"name": f"skyscan-{SCAN_ID}", "key": "scan-token"}
    for name, value in wanted.items():
        if name not in RESERVED and value is not None:
            # what the kubelet makes of it: $$ is a dollar, and there is no $(NAME) left for it to replace
            assert by_name[name]["value"].replace("$$", "$") == str(value)
            assert "$" not in by_name[name]["value"].replace("$$", "")

    for value in job["metadata"]["labels"].values():
        assert re.fullmatch(LABEL, value) is not None, value


@given(text=st.text(max_size=100))
def test_any_text_becomes_a_label(text: str) -> None:

    assert re.fullmatch(LABEL, label_value(text)) is not None


def test_priorities_as_labels() -> None:
    assert [priority_label(priority) for priority in (-5, 0, 100)] == ["minus-5", "0", "100"]


def test_pods_are_restricted() -> None:
    pod = job_for(a_queued_scan())["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["runAsNonRoot"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
