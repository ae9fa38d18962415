"""The dispatcher as a process, with its launcher ``kubernetes``: wired, told to stop, started wrongly."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from skydriver_common.auth import ensure_key
from skydriver_common.model import events as ev
from tests.support import pods
from tests.support.dispatchers import Dispatcher
from tests.support.kmock_cluster import NAMESPACE
from tests.support.waiting import until


def environment(folder: Path, database: str, bus: str, **more: str) -> dict[str, str]:
    """Of a dispatcher for this cluster."""
    ensure_key(folder / "key.pem")
    own = {
        "DATABASE_URL": database, "AMQP_URL": bus, "PUBLIC_URL": "http://skydriver", "SCAN_TOKEN_KEY_FILE": str(folder / "key.pem"),
        "LAUNCHER": "kubernetes", "KUBERNETES_NAMESPACE": NAMESPACE, "INSTANCE": "skydriver-test", "UPLOAD_IMAGE": "skydriver:1",
        "LAUNCH_INTERVAL_S": "0", "KUBERNETES_LEASE_S": "2", **more,
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKYDRIVER_", "KUBE"))}
    return kept | {f"SKYDRIVER_{name}": value for name, value in own.items()}


async def start(env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skydriver_dispatcher", env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


async def test_it_launches_watches_hears_of_refusals_and_on_sigterm_gives_its_lease_back(
    dispatcher: Dispatcher, tmp_path: Path, database: str, clean_bus: str
) -> None:
    kubeconfig = tmp_path / "kubeconfig.json"
    server = {"server": str(dispatcher.cluster.servers[0].url).rstrip("/")}
    kubeconfig.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "c", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        })
    )  # fmt: skip
    process = await start(environment(tmp_path, database, clean_bus) | {"KUBECONFIG": str(kubeconfig)})
    try:
        await dispatcher.cluster.until_watched(2)
        scan_id = await dispatcher.request()
        await dispatcher.store.pool.execute("SELECT pg_notify('skydriver_due', 'launch')")
        await dispatcher.cluster.until_asked("POST", "secrets")
        await dispatcher.cluster.run_pod(scan_id, **pods.running(scan_id))

        async def runs() -> bool:
            launch = (await dispatcher.scan(scan_id)).launch
            return (launch.state, launch.stage) == ("launched", "running")

        await until(runs)
        refused = await dispatcher.request()
        await dispatcher.store.pool.execute("SELECT pg_notify('skydriver_due', 'launch')")

        async def job_is_there() -> bool:
            return dispatcher.has_job(refused)

        async def job_is_gone() -> bool:
            return not dispatcher.has_job(refused)

        await until(job_is_there)
        await dispatcher.store.append("ewms_bridge", refused, ev.WorkflowRefused(reason="no such cluster"))
        await until(job_is_gone)
        assert (await dispatcher.scan(refused)).launch.state == "failed"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    (lease,) = [item for (kind, _, _), item in dispatcher.cluster.objects.items() if kind == "leases"]
    assert lease["spec"]["holderIdentity"] == ""
    assert dispatcher.has_job(scan_id)


async def test_without_a_cluster_it_says_so_and_does_not_start(tmp_path: Path, database: str, clean_bus: str) -> None:
    process = await start(environment(tmp_path, database, clean_bus))
    async with asyncio.timeout(120):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert [line for line in err.decode().splitlines() if "KUBECONFIG: not set" in line]
