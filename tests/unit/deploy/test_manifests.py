"""What ``deploy/`` ships, read as it stands: what a pod needs is there before a cluster is asked."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[3]
DEPLOY = REPO / "deploy"
SERVICES = DEPLOY / "kubernetes" / "base" / "services"
OVERLAYS = sorted(path for path in (DEPLOY / "kubernetes" / "overlays").iterdir() if path.is_dir())
VERSION = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
_BYTES = {"Mi": 2**20, "Gi": 2**30}


def _documents(folder: Path) -> list[dict[str, Any]]:
    return [each for file in sorted(folder.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text()) if each]


def _of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [each for each in _documents(SERVICES) if each["kind"] in kinds]


WORKLOADS = _of_kind("Deployment", "Job")


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _BYTES[quantity[-2:]]


def _pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload["metadata"]["name"])
def test_a_pod_takes_no_more_memory_and_disk_than_it_says(workload: dict[str, Any]) -> None:
    pod = _pod(workload)
    (container,) = pod["containers"]
    for kind in ("requests", "limits"):
        assert {"memory", "ephemeral-storage"} <= container["resources"][kind].keys()
    assert "cpu" in container["resources"]["requests"]
    scratch = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
    assert sum(_bytes(volume["sizeLimit"]) for volume in scratch) < _bytes(
        container["resources"]["limits"]["ephemeral-storage"]
    )


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload["metadata"]["name"])
def test_why_a_container_ended_can_be_read_from_its_pod(workload: dict[str, Any]) -> None:
    (container,) = _pod(workload)["containers"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_another_release_makes_another_job_that_ends() -> None:
    (job,) = _of_kind("Job")
    assert job["metadata"]["name"] == f"skydriver-migrate-{VERSION.replace('.', '-')}"
    assert job["spec"]["activeDeadlineSeconds"] > 0
    for overlay in OVERLAYS:
        (image,) = yaml.safe_load((overlay / "kustomization.yaml").read_text())["images"]
        assert image["newTag"] == VERSION, overlay.name


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.name)
def test_the_folder_of_images_is_in_the_pods_that_look_there(overlay: Path) -> None:
    settings = dict(
        line.split("=", 1) for line in (overlay / "settings.env").read_text().splitlines() if line and not line.startswith("#")
    )
    folders = [
        Path(part.removeprefix("directory:"))
        for part in settings["SKYDRIVER_IMAGE_CATALOG"].split(",")
        if part.startswith("directory:")
    ]
    mounted = list(_mounted_by(overlay, "skydriver-api"))
    for folder in folders:
        assert any(folder.is_relative_to(path) for path in mounted), f"{folder} is in no volume of skydriver-api: {mounted}"


def _mounted_by(overlay: Path, deployment: str) -> Iterator[Path]:
    """Where the overlay's components mount something beside the base's own volumes."""
    for component in yaml.safe_load((overlay / "kustomization.yaml").read_text()).get("components", ()):
        for patch in yaml.safe_load((overlay / component / "kustomization.yaml").read_text()).get("patches", ()):
            if patch["target"].get("name", deployment) == deployment:
                for step in yaml.safe_load(patch["patch"]):
                    if step["path"].endswith("/volumeMounts/-"):
                        yield Path(step["value"]["mountPath"])


def test_metrics_are_open_to_a_scraper_and_to_nobody_else() -> None:
    open_on_health = [
        rule
        for policy in _of_kind("NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        if "health" in [port["port"] for port in rule.get("ports", [{"port": "health"}])]
    ]
    (rule,) = open_on_health
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"]
    assert peer["podSelector"]["matchLabels"]
    headless = [service for service in _of_kind("Service") if "health" in [port["name"] for port in service["spec"]["ports"]]]
    assert len(headless) == 1
    assert headless[0]["spec"]["clusterIP"] == "None"


def test_the_broker_knows_each_user_before_it_reads_its_permissions(tmp_path: Path) -> None:
    """RabbitMQ reads the folder of definitions in the order of the files' names, and stops at a user that it does not know."""
    make_users = DEPLOY / "rabbitmq" / "make_users"
    subprocess.run([sys.executable, str(make_users), "amqp://bus", str(tmp_path)], check=True, timeout=60)
    users: set[str] = set()
    vhosts: set[str] = set()
    files = [*tmp_path.glob("*.json"), *(DEPLOY / "rabbitmq").glob("*.json")]
    for file in sorted(files, key=lambda file: file.name):
        definitions = json.loads(file.read_text())  # within a file: users, virtual hosts, permissions, policies
        users |= {user["name"] for user in definitions.get("users", ())}
        vhosts |= {vhost["name"] for vhost in definitions.get("vhosts", ())}
        for permission in definitions.get("permissions", ()):
            assert permission["user"] in users, f"{file.name}: {permission['user']} is not known yet"
        for named in (*definitions.get("permissions", ()), *definitions.get("policies", ())):
            assert named["vhost"] in vhosts, f"{file.name}: {named['vhost']} is not known yet"
    assert len(users) == 5


def test_the_user_of_the_pods_has_a_name_in_the_image() -> None:
    uid = {_pod(workload)["securityContext"]["runAsUser"] for workload in WORKLOADS}
    assert len(uid) == 1
    dockerfile = (DEPLOY / "images" / "Dockerfile").read_text()
    assert f"skydriver:x:{uid.pop()}:" in dockerfile
