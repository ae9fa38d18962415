"""SkyDriver's own services as processes, with the Kubernetes launcher on the tests' control plane: what an installation runs,
without EWMS. The test plays the scanner servers: it reports over REST with the token that lies in the scan's Secret.
"""

import base64
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from skydriver_cli.embedded import processes
from skydriver_cli.embedded.ports import LOOPBACK, choose
from skydriver_common.auth import TokenSigner, ensure_key
from skydriver_common.model.ids import ScanId
from skydriver_sandbox.sample_event import sample_event
from tests.support.kube.api import Api, Object, eventually

ISSUER, AUDIENCE, INSTANCE = "skydriver-tests", "skydriver", "tests"
MODULES = {"api": "skydriver_api", "dispatcher": "skydriver_dispatcher", "progress": "skydriver_progress"}
SCAN_ID_LABEL = "skydriver.icecube.wisc.edu/scan-id"
FINAL_RESULT = {"skyscan_result": {"nside-1": {"columns": ["index"], "data": [[0]], "metadata": {}}}, "is_final": True}


class Installation:
    """Services by replica name: ``api``, ``progress``, ``dispatcher-0`` … kubeconfig: of the dispatchers."""

    def __init__(
        self, folder: Path, *, api: Api, namespace: str, kubeconfig: Path, database_url: str, amqp_url: str, dispatchers: int = 1
    ) -> None:  # fmt: skip
        self.folder = folder
        self.api = api
        self.namespace = namespace
        self.replicas = ["api", "progress", *(f"dispatcher-{number}" for number in range(dispatchers))]
        self._kubeconfig = kubeconfig
        self._servers = {"SKYDRIVER_DATABASE_URL": database_url, "SKYDRIVER_AMQP_URL": amqp_url}
        self._children: dict[str, processes.Child] = {}
        self._ports = choose(["http", *self.replicas], {})
        self.url = f"http://{LOOPBACK}:{self._ports['http']}"
        self._key = folder / "keys" / "key.pem"
        self._jwks = ensure_key(self._key)
        signer = TokenSigner.from_file(self._key, issuer=ISSUER, audience=AUDIENCE)
        self._tokens = {"user": signer.user_token(), "system": signer.system_token()}
        for tag in ("4.0.0", "4.0.1", "missing"):  # the first is the oldest that the gateway takes
            (folder / "images" / f"skymap_scanner:{tag}").mkdir(parents=True)
        self.settings: dict[str, str] = {}
        self.session = aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(total=30))

    async def start(self, **settings: Any) -> None:
        """Start everything and wait until it is ready. settings: of the dispatcher, without prefix."""
        self.settings = {f"SKYDRIVER_{name.upper()}": str(value) for name, value in settings.items()}
        for replica in self.replicas:
            await self.start_service(replica)
        for replica in self.replicas:
            await self.until_ready(replica)

    async def stop(self) -> None:
        """Stop everything."""
        await self.session.close()
        for replica in reversed(self.replicas):
            if replica in self._children:
                await self._children.pop(replica).stop(grace_s=10.0)

    async def start_service(self, replica: str) -> None:
        """Start one process; one that was killed starts anew with the same settings."""
        service = replica.partition("-")[0]
        environment = (
            {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONDONTWRITEBYTECODE") if name in os.environ}
            | self._servers
            | self._own(service)
            | {"SKYDRIVER_HEALTH_PORT": str(self._ports[replica])}
        )
        self._children[replica] = await processes.start(
            replica, [sys.executable, "-m", MODULES[service]], env=environment, cwd=self.folder,
            log=self.folder / f"{replica}.log", identity_file=self.folder / f"{replica}.pid.json",
            when_parent_dies=signal.SIGKILL,
        )  # fmt: skip

    async def until_ready(self, replica: str) -> None:
        """Wait until a process says that it is ready; one that ends because something was away starts again."""

        async def ready() -> bool:
            child = self._children[replica]
            if child.has_ended:
                assert child.process.returncode == 1, f"{replica} does not start: {child.last_lines(5)}"
                await self.start_service(replica)
                return False
            async with self.session.get(f"http://{LOOPBACK}:{self._ports[replica]}/readyz") as answer:
                return answer.status == 200

        await eventually(ready, f"{replica} is ready", limit_s=90)

    async def kill(self, replica: str) -> None:
        """``kill -9`` one process."""
        await self._children.pop(replica).stop(ask=(), grace_s=0)

    def log(self, replica: str) -> str:
        """What a process has written."""
        return (self.folder / f"{replica}.log").read_text(errors="replace")

    async def metrics(self, replica: str) -> str:
        """The figures of a process."""
        async with self.session.get(f"http://{LOOPBACK}:{self._ports[replica]}/metrics") as answer:
            return await answer.text()

    async def call(
        self, method: str, path: str, *, body: Any = None, role: str = "user", token: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:  # fmt: skip
        """One REST call: status and JSON."""
        bearer = {"Authorization": f"Bearer {token or self._tokens[role]}"} | dict(headers or {})
        async with self.session.request(method, path, json=body, headers=bearer) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> Any:
        """The JSON of an answer that must be 200."""
        status, content = await self.call("GET", path)
        assert status == 200, f"GET {path}: {status} {content}"
        return content

    async def submit(self, **changes: Any) -> ScanId:
        """Request a scan that starts at once; its id. A repeated request is the same request."""
        status, manifest = await self.call("POST", "/scan", body=request(**changes))
        assert status == 200, manifest
        return ScanId(manifest["scan_id"])

    async def delete(self, scan_id: ScanId) -> None:
        """Delete a scan, whatever its state."""
        status, content = await self.call("DELETE", f"/scan/{scan_id}", body={"delete_completed_scan": True})
        assert status == 200, content

    async def events(self, scan_id: ScanId) -> list[dict[str, Any]]:
        """The scan's history."""
        events: list[dict[str, Any]] = (await self.get(f"/scan/{scan_id}/events?limit=1000"))["events"]
        return events

    async def event(self, scan_id: ScanId, kind: str, *, limit_s: float = 60.0) -> dict[str, Any]:
        """Wait for the first event of this type; its data."""

        async def find() -> dict[str, Any] | None:
            return next((event for event in await self.events(scan_id) if event["type"] == kind), None)

        event = await self.explained(scan_id, eventually(find, f"{kind} of {scan_id}", limit_s=limit_s))
        return dict(event["data"])

    async def explained(self, scan_id: ScanId, waiting: Awaitable[Any]) -> Any:
        """Wait; when it takes too long, say what happened instead."""
        try:
            return await waiting
        except AssertionError as error:
            kinds = [event["type"] for event in await self.events(scan_id)]
            raise AssertionError(f"{error}; its events: {kinds}") from error

    async def job(self, scan_id: ScanId) -> Object | None:
        """The scan's Job."""
        return await self.api.get("Job", self.namespace, f"skyscan-{scan_id}")

    async def pod(self, scan_id: ScanId) -> Object | None:
        """The scan's pod."""
        pods = await self.api.list("Pod", self.namespace, f"{SCAN_ID_LABEL}={scan_id}")
        return pods[0] if pods else None

    async def running_pod(self, scan_id: ScanId) -> str:
        """Wait until the scan's pod runs; its name."""

        async def running() -> str:
            pod = await self.pod(scan_id)
            return str(pod["metadata"]["name"]) if pod and pod["status"].get("phase") == "Running" else ""

        return str(await self.explained(scan_id, eventually(running, f"the pod of {scan_id} runs", limit_s=90)))

    async def give_end(self, scan_id: ScanId, **annotations: str) -> None:
        """Let the scan's pod end as the annotations ``tests/…`` say (stages.yaml); ``_`` stands for ``-``."""
        name = await self.running_pod(scan_id)
        fate = {f"tests/{key.replace('_', '-')}": value for key, value in annotations.items()}
        await self.api.patch("Pod", self.namespace, name, {"metadata": {"annotations": fate}})

    async def put_final_result(self, scan_id: ScanId) -> None:
        """Send the final result as the scan's scanner server would: with the token from its Secret."""
        secret = await self.api.get("Secret", self.namespace, f"skyscan-{scan_id}")
        assert secret is not None, f"{scan_id} has no Secret"
        token = base64.b64decode(secret["data"]["scan-token"]).decode()
        status, content = await self.call("PUT", f"/scan/{scan_id}/result", body=FINAL_RESULT, token=token)
        assert status == 200, content

    async def gone(self, scan_id: ScanId) -> bool:
        """Whether nothing of the scan is in the cluster."""
        selector = f"{SCAN_ID_LABEL}={scan_id}"
        return not any([await self.api.list(kind, self.namespace, selector) for kind in ("Job", "Pod", "Secret")])

    def _own(self, service: str) -> dict[str, str]:
        auth = {"SKYDRIVER_AUTH_ISSUER": ISSUER, "SKYDRIVER_AUTH_AUDIENCE": AUDIENCE}
        match service:
            case "progress":
                return auth | {"SKYDRIVER_AUTH_JWKS_FILE": str(self._jwks)}
            case "api":
                return auth | {
                    "SKYDRIVER_HTTP_PORT": str(self._ports["http"]), "SKYDRIVER_AUTH_JWKS_FILE": str(self._jwks),
                    "SKYDRIVER_IMAGE_CATALOG": f"directory:{self.folder / 'images'}",
                }  # fmt: skip
            case "dispatcher":
                return auth | {
                    "KUBECONFIG": str(self._kubeconfig), "SKYDRIVER_LAUNCHER": "kubernetes", "SKYDRIVER_INSTANCE": INSTANCE,
                    "SKYDRIVER_KUBERNETES_NAMESPACE": self.namespace, "SKYDRIVER_KUBERNETES_LEASE_S": "3",
                    "SKYDRIVER_UPLOAD_IMAGE": "skydriver:0.1.0", "SKYDRIVER_PUBLIC_URL": self.url,
                    "SKYDRIVER_SCAN_TOKEN_KEY_FILE": str(self._key), "SKYDRIVER_LAUNCH_INTERVAL_S": "0",
                } | self.settings  # fmt: skip
            case _:
                return {}


def request(**changes: Any) -> dict[str, Any]:
    """A small valid request of an urgent scan."""
    return {
        "docker_tag": "4.0.1", "reco_algo": "dummy", "nsides": {"1": 0}, "real_or_simulated_event": "simulated",
        "max_pixel_reco_time": 60, "request_clusters": {"osg": 1}, "priority": 100, "event_i3live_json": _event(),
    } | changes  # fmt: skip


@functools.cache
def _event() -> dict[str, Any]:
    return dict(sample_event())
