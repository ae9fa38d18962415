"""What ``deploy/`` ships is accepted by a real API server, runs restricted, and is enough for the services to start."""

import os
from pathlib import Path

import pytest
import yaml

from skydriver_api.settings import ApiSettings
from skydriver_common.runtime.settings import ServiceSettings
from skydriver_dispatcher.settings import DispatcherSettings
from skydriver_ewms_bridge.settings import BridgeSettings
from skydriver_progress.settings import ProgressSettings
from tests.support.kube.api import Api, ApiError
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.manifests import DEPLOY, OVERLAYS, environment_of, one, rendered, text_of

COMPONENTS = sorted(path.name for path in (DEPLOY / "components").iterdir())
SETTINGS: dict[str, type[ServiceSettings]] = {
    "skydriver-api": ApiSettings,
    "skydriver-dispatcher": DispatcherSettings,
    "skydriver-ewms-bridge": BridgeSettings,
    "skydriver-progress": ProgressSettings,
}


@pytest.fixture
async def namespaces(api: Api, control_plane: ControlPlane) -> None:
    """The namespaces of an installation, which a dry run can't make for the rest."""
    for namespace in [thing for thing in rendered(control_plane, "base") if thing["kind"] == "Namespace"]:
        try:
            await api.create(namespace)
        except ApiError as error:
            if error.status != 409:
                raise


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_accepts_an_overlay(control_plane: ControlPlane, overlay: str) -> None:
    objects = rendered(control_plane, f"overlays/{overlay}")
    applied = control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", input=text_of(objects)
    )
    assert len(applied.stdout.splitlines()) == len(objects)
    assert "Warning" not in applied.stderr, applied.stderr  # of pod security among others


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_api_server_accepts_an_overlay_with_a_component(
    control_plane: ControlPlane, tmp_path: Path, component: str
) -> None:
    def relative(folder: str) -> str:
        return os.path.relpath(DEPLOY / folder, tmp_path)

    mine = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [relative("overlays/trial")], "components": [relative(f"components/{component}")],
    }  # fmt: skip
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    objects = [thing for thing in yaml.safe_load_all(control_plane.kubectl("kustomize", str(tmp_path)).stdout) if thing]
    assert objects != rendered(control_plane, "overlays/trial")
    applied = control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", input=text_of(objects)
    )
    assert len(applied.stdout.splitlines()) == len(objects)
    assert "Warning" not in applied.stderr, applied.stderr


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_its_pods_are_admitted_where_only_restricted_ones_are(
    api: Api, control_plane: ControlPlane, overlay: str
) -> None:
    objects = rendered(control_plane, f"overlays/{overlay}")
    for account in [thing for thing in objects if thing["kind"] == "ServiceAccount"]:
        control_plane.kubectl("apply", "-f", "-", input=text_of([account]))
    workloads = [thing for thing in objects if thing["kind"] in ("Deployment", "Job")]
    assert len(workloads) == 5
    for workload in workloads:
        template = workload["spec"]["template"]
        pod = {
            "apiVersion": "v1", "kind": "Pod", "spec": {"restartPolicy": "Always", **template["spec"]},
            "metadata": {"name": workload["metadata"]["name"], "labels": template["metadata"]["labels"]},
        }  # fmt: skip
        await api.create(pod, namespace="skydriver", dry_run=True)


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_its_settings_are_all_that_a_service_needs(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, overlay: str, service: str
) -> None:
    objects = rendered(control_plane, f"overlays/{overlay}")
    for name, value in environment_of(objects, one(objects, "Deployment", service)).items():
        monkeypatch.setenv(name, value)
    settings = SETTINGS[service].read()
    assert settings.health_host == "0.0.0.0"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_shipped_and_each_is_told(control_plane: ControlPlane, overlay: str) -> None:
    objects = rendered(control_plane, f"overlays/{overlay}")
    assert "Secret" not in {thing["kind"] for thing in objects}
    told = (DEPLOY / "README.md").read_text()
    used = set()
    for workload in [thing for thing in objects if thing["kind"] in ("Deployment", "Job")]:
        spec = workload["spec"]["template"]["spec"]
        used |= {
            (ref["name"], ref["key"])
            for each in spec["containers"][0].get("env", ())
            if (ref := each.get("valueFrom", {}).get("secretKeyRef"))
        }
    assert used
    for name, key in used:
        assert name in told, f"{name} is not in deploy/kubernetes/README.md"
        assert key in told, f"the key {key} of {name} is not in deploy/kubernetes/README.md"
