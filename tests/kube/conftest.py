"""One control plane for all tests; each test has namespaces of its own."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.kube.api import Api
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import Installation
from tests.support.kube.rights import grant


@pytest.fixture(scope="session")
def control_plane(_runner: asyncio.Runner) -> Iterator[ControlPlane]:
    """A running control plane that tests don't harm for longer than they take."""
    with tempfile.TemporaryDirectory(prefix="skydriver-kube-", ignore_cleanup_errors=True) as folder:
        plane = _runner.run(ControlPlane.start(Path(folder)))
        yield plane
        _runner.run(plane.stop())


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    """The API as administrator."""
    async with control_plane.session() as session:
        yield Api(session)


@pytest.fixture
async def namespace(api: Api) -> AsyncIterator[str]:
    """A namespace for scans, guarded as in production."""
    name = f"scans-{uuid.uuid4().hex[:8]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    await api.delete("Namespace", "", name)


@pytest.fixture
async def dispatcher_kubeconfig(control_plane: ControlPlane, api: Api, namespace: str) -> Path:
    """The dispatcher's way into the cluster: its service account, with exactly the Role that ``deploy/`` ships."""
    return await grant(control_plane, api, namespace, "skydriver-dispatcher")


@pytest.fixture
async def installation(
    tmp_path: Path, api: Api, namespace: str, dispatcher_kubeconfig: Path, database: str, clean_bus: str
) -> AsyncIterator[Installation]:
    """Services of the test's own; the test starts them."""
    made = Installation(
        tmp_path, api=api, namespace=namespace, kubeconfig=dispatcher_kubeconfig, database_url=database, amqp_url=clean_bus
    )
    yield made
    await made.stop()
