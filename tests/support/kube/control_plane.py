"""Starts and stops the control plane's programs on free loopback ports.

The programs are those of ``scripts/kube-assets``. Each is a child that dies with the process that started it, so that a killed
test run leaves nothing; nothing is read from or written to a cluster of the user's.
"""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from skydriver_cli.embedded import processes
from skydriver_cli.embedded.ports import LOOPBACK, choose
from tests.support.kube.certificates import Authority, Pair, signing_key
from tests.support.waiting import pause, until

REPO = Path(__file__).resolve().parents[3]
STAGES = Path(__file__).with_name("stages.yaml")
AUDIT_POLICY = Path(__file__).with_name("audit-policy.yaml")
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
CONTROLLERS = (
    "garbage-collector-controller", "job-controller", "namespace-controller", "node-lifecycle-controller",
    "pod-garbage-collector-controller", "resourcequota-controller", "serviceaccount-controller",
    "taint-eviction-controller", "ttl-after-finished-controller",
)  # fmt: skip
_START_LIMIT_S = 120.0
_GRACE_S = 2.0


class AssetsMissing(Exception):
    """The programs are not there; the text says how to get them."""


def find_programs() -> dict[str, Path]:
    """Paths of the programs. Raises AssetsMissing."""
    told = subprocess.run(
        [REPO / "scripts" / "kube-assets", "--where"], check=True, capture_output=True, text=True, timeout=600
    )
    found, missing = {}, []
    for line in told.stdout.splitlines():
        name, state, path = line.split(" ", 2)
        found[name] = Path(path)
        if state != "ready":
            missing.append(name)
    if missing:
        raise AssetsMissing(f"{', '.join(missing)} missing: run `make kube-assets`")
    return found


class Call(NamedTuple):
    """One call by a service account: verb and resource as Roles name them, the object's name, the answer's HTTP status."""

    verb: str
    resource: str
    name: str
    status: int


class ControlPlane:
    """A running control plane. ``start`` makes one; ``folder`` holds its files and logs."""

    def __init__(self, folder: Path, programs: dict[str, Path], ports: dict[str, int], options: Sequence[str]) -> None:
        self.folder = folder
        self.programs = programs
        self._ports = ports
        self._options = options
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._authority = Authority(folder / "pki")
        self._server = self._authority.server("kube-apiserver")
        self._accounts = signing_key(folder / "pki")
        self.url = f"https://{LOOPBACK}:{ports['api']}"
        self.kubeconfig = self._kubeconfig("admin", self._authority.client("tests-admin", "system:masters"))

    @staticmethod
    async def start(folder: Path, *, api_options: Sequence[str] = (), nodes: int = 3) -> "ControlPlane":
        """Start everything, wait until the API server is ready and the nodes are. Raises AssetsMissing.

        api_options: further options of the API server. nodes: 0 starts the API server alone, without controllers. Ends what it
        began when it fails.
        """
        plane = ControlPlane(folder, find_programs(), choose(["etcd", "peer", "api", "kwok"], {}), api_options)
        try:
            await plane._start_all(nodes)
        except BaseException:
            await plane.stop()
            raise
        return plane

    async def stop(self) -> None:
        """End all programs."""
        for name in ("kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            if name in self._running:
                await self._end(name, signal.SIGTERM)

    async def kill_api_server(self) -> None:
        """End the API server at once, as ``kill -9`` does."""
        await self._end("kube-apiserver", signal.SIGKILL)

    def calls(self, namespace: str) -> list[Call]:
        """What service accounts of this namespace have asked the API server, and what it answered."""
        path, found = self.folder / "audit.log", []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            what = event.get("objectRef", {})
            if event["user"]["username"].startswith(f"system:serviceaccount:{namespace}:") and "resource" in what:
                code = event.get("responseStatus", {}).get("code", 0)
                found.append(Call(event["verb"], what["resource"], what.get("name", ""), code))
        return found

    async def start_api_server(self, *, wait: bool = True) -> None:
        """Start the API server on its port."""
        files, tokens = self._server, self._accounts
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://{LOOPBACK}:{self._ports['etcd']}",
            f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}", f"--secure-port={self._ports['api']}",
            "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
            f"--tls-cert-file={files.certificate}", f"--tls-private-key-file={files.key}",
            f"--client-ca-file={self._authority.pair.certificate}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={tokens.key}", f"--service-account-key-file={tokens.certificate}",
            f"--audit-policy-file={AUDIT_POLICY}", f"--audit-log-path={self.folder / 'audit.log'}",
            "--authorization-mode=RBAC", "--anonymous-auth=false", "--profiling=false",
            "--default-unreachable-toleration-seconds=2", "--default-not-ready-toleration-seconds=2",
            *self._options,
        )  # fmt: skip
        if wait:
            await self._until_ready()

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator; for kustomize and one-off questions, not for loops. Blocks."""
        done = subprocess.run(
            [str(self.programs["kubectl"]), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'kubectl'}", *arguments],
            capture_output=True, text=True, input=input, timeout=600, check=False,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)},
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def kubeconfig_with_token(self, name: str, token: str, *, namespace: str = "default") -> Path:
        """A kubeconfig file for the holder of a token, as a service account has one."""
        return self._write_kubeconfig(name, {"token": token}, namespace)

    def _kubeconfig(self, name: str, client: Pair) -> Path:
        user = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
        return self._write_kubeconfig(name, user, "default")

    def _write_kubeconfig(self, name: str, user: dict[str, str], namespace: str) -> Path:
        path = self.folder / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [
                {"name": "tests", "cluster": {"server": self.url, "certificate-authority": str(self._authority.pair.certificate)}}
            ],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name, "namespace": namespace}}],
        }  # fmt: skip
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))  # JSON is YAML
        return path

    async def _start_all(self, nodes: int) -> None:
        etcd, peer = (f"http://{LOOPBACK}:{self._ports[name]}" for name in ("etcd", "peer"))
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync", "--log-level=warn",
        )  # fmt: skip
        await self.start_api_server()
        if not nodes:
            return
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={self._kubeconfig('controllers', self._authority.client('system:kube-controller-manager', 'system:masters'))}",
            f"--controllers={','.join(CONTROLLERS)}", "--leader-elect=false", "--secure-port=0",
            f"--service-account-private-key-file={self._accounts.key}", "--resource-quota-sync-period=2s",
            "--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-gc-syncs=20", "--node-monitor-grace-period=20s",
            "--node-monitor-period=2s",
        )  # fmt: skip
        self._run(
            "kube-scheduler",
            f"--kubeconfig={self._kubeconfig('scheduler', self._authority.client('system:kube-scheduler', 'system:masters'))}",
            "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000",
        )  # fmt: skip
        self._run(
            "kwok",
            f"--kubeconfig={self._kubeconfig('kwok', self._authority.client('kwok', 'system:masters'))}",
            f"--config={STAGES}", "--manage-all-nodes", "--node-lease-duration-seconds=20", "--cidr=10.1.0.0/16",
            f"--node-ip={LOOPBACK}", f"--server-address={LOOPBACK}:{self._ports['kwok']}",
        )  # fmt: skip
        for number in range(nodes):
            await self._until(lambda number=number: self._made_node(number), "a node can be made")
        await self._until(lambda: self._nodes_are_ready(nodes), "the nodes are ready")

    def _run(self, name: str, *options: str) -> None:
        # plain processes, belonging to no event loop: they are started in one and ended in another
        dies_with_us = [setpriv, "--pdeathsig", "KILL", "--"] if (setpriv := shutil.which("setpriv")) else []
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*dies_with_us, str(self.programs[name]), *options], cwd=self.folder, start_new_session=True,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    async def _end(self, name: str, how: signal.Signals) -> None:
        process = self._running.pop(name)
        process.send_signal(how)
        deadline = asyncio.get_running_loop().time() + _GRACE_S
        while process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                process.kill()
            await pause(0.02)

    async def _until_ready(self) -> None:
        async with self.session() as session:

            async def is_ready() -> bool:
                async with session.get("/readyz", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                    return answer.status == 200

            await self._until(is_ready, "the API server is ready")

    async def _until(self, condition: Any, what: str) -> None:
        async def is_so() -> bool:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} has ended: {processes.last_lines(self.folder / f'{name}.log', 5)}")
            return bool(await condition())

        await until(is_so, what, _START_LIMIT_S, 0.1, not_yet=(aiohttp.ClientError, OSError, TimeoutError))

    def session(self) -> aiohttp.ClientSession:
        """HTTP as administrator; the caller closes it."""
        context = ssl.create_default_context(cafile=str(self._authority.pair.certificate))
        admin = json.loads(self.kubeconfig.read_text())["users"][0]["user"]
        context.load_cert_chain(admin["client-certificate"], admin["client-key"])
        return aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(ssl=context, limit=50))

    async def _made_node(self, number: int) -> bool:
        room = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "100Ti", "pods": "5000"}
        node = {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": f"node-{number}", "labels": {"kubernetes.io/hostname": f"node-{number}"}},
            "status": {"capacity": room, "allocatable": room},
        }  # fmt: skip
        async with self.session() as session, session.post("/api/v1/nodes", json=node) as answer:
            return answer.status in (201, 409)

    async def _nodes_are_ready(self, nodes: int) -> bool:
        async with self.session() as session, session.get("/api/v1/nodes") as answer:
            items = (await answer.json())["items"]
        ready = [
            node
            for node in items
            if any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", []))
            and not any(taint["effect"] == "NoSchedule" for taint in node["spec"].get("taints", []))
        ]
        return len(ready) >= nodes
