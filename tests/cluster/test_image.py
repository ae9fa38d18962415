"""The image, started by a container engine as the pods of ``deploy/`` start it: its user, a read-only root, its settings and Secrets.

Run by ``make test-cluster`` alone, in namespaces of its own. Kubernetes has an API server here, and no kubelet.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml

from skydriver_cli.embedded import postgres
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.trust import trust
from tests.cluster import broker as rabbitmq
from tests.cluster.engine import Container, Engine, work_folder
from tests.support.kube.api import Api
from tests.support.kube.certificates import Authority
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.rights import grant
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(
    "SKYDRIVER_TEST_IMAGE_ARCHIVE" not in os.environ, reason="NOT RUN: it needs an engine and namespaces (make test-cluster)"
)

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = {"api": 18081, "dispatcher": 18082, "ewms-bridge": 18083, "progress": 18084}
"""Each service and its health port: all share one network here."""


def _settings() -> dict[str, str]:
    """What the trial overlay gives to all services."""
    files = ("base/services/settings.env", "overlays/trial/settings.env")
    lines = [line for file in files for line in (DEPLOY / "kubernetes" / file).read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _pod(service: str) -> dict[str, Any]:
    """The container of a service, as the base has it."""
    for document in yaml.safe_load_all((DEPLOY / "kubernetes/base/services" / f"{service}.yaml").read_text()):
        if document["kind"] in ("Deployment", "Job"):
            container: dict[str, Any] = document["spec"]["template"]["spec"]["containers"][0]
            return container
    raise AssertionError(service)


def _environment(service: str, secrets: dict[tuple[str, str], str]) -> dict[str, str]:
    container, settings = _pod(service), _settings()
    environment = dict(settings) if "envFrom" in container else {}
    for variable in container["env"]:
        match variable:
            case {"value": value}:
                environment[variable["name"]] = str(value)
            case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                environment[variable["name"]] = secrets[name, key]
            case {"valueFrom": {"configMapKeyRef": {"key": key}}}:
                environment[variable["name"]] = settings[key]
    return environment


class Installation:
    """Postgres, broker, API server and engine, each of the test's own, and the Secrets that name them."""

    def __init__(self, folder: Path, engine: Engine, secrets: dict[tuple[str, str], str], kubeconfigs: dict[str, Path]) -> None:
        self.folder = folder
        self.engine = engine
        self.secrets = secrets
        self.kubeconfigs = kubeconfigs
        self._n_started = 0

    async def start(self, service: str, **more: str) -> Container:
        """A container of this service or of the migration, as its pod has it. more: settings of this test."""
        environment = _environment(service, self.secrets) | {"SKYDRIVER_CA_FILE": "/etc/skydriver/ca/ca.crt"} | more
        files = {"/etc/skydriver/ca": self.folder / "ca-bundle", "/etc/skydriver/keys": self.folder / "keys"}
        if service in self.kubeconfigs:
            config = self.kubeconfigs[service]
            environment |= {"KUBECONFIG": str(config), "SKYDRIVER_KUBERNETES_NAMESPACE": "scans"}
            files[str(self.folder / "kubernetes")] = self.folder / "kubernetes"
        self._n_started += 1
        return await self.engine.container(
            f"{service}-{self._n_started}", _pod(service)["args"], environment=environment, files=files
        )


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    """Everything but the services; the database is empty."""
    folder = work_folder()
    authority = Authority(folder / "authority")
    trust(authority.pair.certificate)
    for name in ("keys", "ca-bundle", "broker"):
        (folder / name).mkdir()
    (folder / "ca-bundle" / "ca.crt").write_bytes(authority.pair.certificate.read_bytes())
    key = folder / "keys" / "key.pem"
    ensure_key(key)
    for path in (folder, *(folder / "keys").iterdir()):  # for the group of the pod, as the kubelet does it
        os.chown(path, 0, 10001)
        path.chmod(0o750 if path.is_dir() else 0o440)
    signer = TokenSigner.from_file(key, issuer="skydriver", audience="skydriver")
    plane = await ControlPlane.start(folder / "kubernetes", nodes=0)
    database = await postgres.start(folder / "postgres", port=5432, run_dir=folder, log=folder / "postgres.log", durable=False)
    broker = await rabbitmq.start(folder / "broker", authority=authority, kid=signer.kid, public_pem=signer.public_pem())
    engine = await Engine.start(
        folder / "engine", image=os.environ["SKYDRIVER_TEST_IMAGE"], archive=Path(os.environ["SKYDRIVER_TEST_IMAGE_ARCHIVE"])
    )
    async with plane.session() as session:
        api = Api(session)
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "scans"}})
        kubeconfigs = {
            service: await grant(plane, api, "scans", f"skydriver-{service}") for service in ("dispatcher", "ewms-bridge")
        }
    files = [*kubeconfigs.values(), *plane.folder.rglob("*.crt")]
    folders = [parent for file in files for parent in file.parents if parent.is_relative_to(plane.folder)]
    for path in (*files, *folders):
        path.chmod(0o755 if path.is_dir() else 0o644)  # for the user of the pods, who is nobody here
    passwords = {service.replace("-", "_"): f"password-of-{service}" for service in SERVICES}
    words = [word for name, password in passwords.items() for word in ("-v", f"{name}={password}")]
    psql = ["psql", database.url, "-X", "-q", *words, "-f", str(DEPLOY / "postgres/users.sql")]
    await asyncio.to_thread(subprocess.run, psql, check=True, timeout=60)
    place = database.url.rpartition("@")[2]
    secrets = {
        ("skydriver-database", service): f"postgresql://skydriver_{name}_1:{passwords[name]}@{place}"
        for service in SERVICES
        if (name := service.replace("-", "_"))
    }
    secrets |= {("skydriver-database", "migrate"): database.url}
    secrets |= {("skydriver-bus", service): broker.urls[service] for service in SERVICES}
    secrets |= {("skydriver-ewms", key): "word" for key in ("client-id", "client-secret")}
    secrets |= {("skydriver-object-store", key): "word" for key in ("key-id", "secret")}
    yield Installation(folder, engine, secrets, kubeconfigs)
    await engine.stop()
    await broker.stop()
    await database.stop()
    await plane.stop()
    trust(None)


async def _is_ready(container: Container, port: int) -> bool:
    assert container.process.returncode is None, container.text()[-3000:]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as response:
        return response.status == 200


@pytest.mark.timeout(900)
async def test_an_installation_becomes_ready_and_stops_in_order(installation: Installation) -> None:
    # the migration: of an empty database, and once more with nothing to do
    for _ in range(2):
        migrate = await installation.start("migrate")
        assert await migrate.exit_code() == 0, migrate.text()
    connection = await asyncpg.connect(installation.secrets["skydriver-database", "migrate"])
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") > 0
    await connection.close()

    # every service, with the rights of its own users
    containers = {
        service: await installation.start(service, SKYDRIVER_HEALTH_PORT=str(port)) for service, port in SERVICES.items()
    }
    for service, container in containers.items():

        async def ready(container: Container = container, port: int = SERVICES[service]) -> bool:
            return await _is_ready(container, port)

        await until(ready, f"{service} is ready", 240.0, not_yet=(aiohttp.ClientError, OSError))

    # and ends when it is asked to, with nothing that it could not write
    for service, container in containers.items():
        assert await container.stop() == 0, f"{service}: {container.text()[-3000:]}"
        assert "Read-only file system" not in container.text()
