"""In a pod, the way into the cluster is the service account that Kubernetes mounts there."""

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kubernetes_asyncio.config import incluster_config

from skydriver_common.kubernetes import client as clients
from skydriver_dispatcher.pending_events import PendingEvents
from tests.support.launchers import JOBS, a_queued_scan, kubernetes_launcher


async def test_the_service_account_of_the_pod_is_used(
    dispatcher_kubeconfig: Path, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(dispatcher_kubeconfig.read_text())
    cluster, token = config["clusters"][0]["cluster"], tmp_path / "token"
    token.write_text(config["users"][0]["user"]["token"])
    server = urlsplit(cluster["server"])
    monkeypatch.setattr(clients, "_IN_CLUSTER_TOKEN", token)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", cluster["certificate-authority"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    scan = a_queued_scan()
    async with clients.open_client() as client:
        launcher = kubernetes_launcher(client, PendingEvents(), replace(JOBS, namespace=namespace), timeout_s=10)
        await launcher.launch(scan)
        assert await launcher.running_scans() == {scan.scan_id: True}
