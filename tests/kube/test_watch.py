"""What happens while the API server, or the dispatcher, is away is seen afterwards."""

from skydriver_common.model.ids import ScanId
from tests.support.kube.api import spec_of
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.installation import Installation


async def test_the_watch_goes_on_over_a_restart_of_the_api_server(
    installation: Installation, control_plane: ControlPlane
) -> None:
    await installation.start()
    before = await installation.submit()
    await installation.running_pod(before)
    await control_plane.kill_api_server()
    try:
        during = await installation.submit()  # nobody can start it now
        deferred = await installation.event(during, "scan.launch-deferred")
        assert "the Kubernetes API" in deferred["reason"]  # unreachable, or it did not respond
    finally:
        await control_plane.start_api_server()
    await installation.event(during, "scan.launched", limit_s=90)
    await installation.running_pod(during)
    await installation.give_end(before, exit_code="137", exit_reason="OOMKilled")
    lost = await installation.event(before, "scan.scanner-lost", limit_s=90)
    assert "OOMKilled" in lost["reason"]


async def test_what_happened_while_no_dispatcher_lived_is_put_right_by_the_next(installation: Installation) -> None:
    await installation.start()
    kept, killed, deleted, forgotten = [await installation.submit() for _ in range(4)]
    for scan_id in (kept, killed, deleted, forgotten):
        await installation.running_pod(scan_id)
    await installation.kill("dispatcher-0")
    await installation.give_end(killed, exit_code="143")
    api, namespace = installation.api, installation.namespace
    await api.delete("Job", namespace, f"skyscan-{deleted}", propagationPolicy="Background")
    # a Job of a scan that nobody knows, such as one from a database that was set back
    job = await installation.job(forgotten)
    assert job is not None
    stranger = forgotten[:-4] + "0000"
    spec = spec_of(job)
    labels = spec["template"]["metadata"]["labels"]
    labels["skydriver.icecube.wisc.edu/scan-id"] = stranger
    await api.create(
        {
            "apiVersion": "batch/v1", "kind": "Job", "spec": spec,
            "metadata": {"name": f"skyscan-{stranger}", "labels": {k: v for k, v in labels.items() if k != "app"}},
        },
        namespace=namespace,
    )  # fmt: skip

    await installation.start_service("dispatcher-0")
    for scan_id, word in ((killed, "143"), (deleted, "")):
        lost = await installation.event(scan_id, "scan.scanner-lost", limit_s=60)
        assert word in lost["reason"]
        new = (await installation.event(scan_id, "scan.replaced"))["by_scan_id"]
        await installation.running_pod(new)
    # it is stopped when it has been unknown for ten minutes: the database may be the one that is wrong
    assert not await installation.gone(ScanId(stranger))
    kinds = [event["type"] for event in await installation.events(kept)]
    assert "scan.scanner-lost" not in kinds
    await installation.running_pod(kept)
