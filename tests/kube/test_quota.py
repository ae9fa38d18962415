"""A namespace that has no room: scans wait, and start when there is room."""

from tests.support.kube.api import Api, eventually
from tests.support.kube.installation import Installation


async def test_scans_wait_for_room_without_using_up_attempts(installation: Installation, api: Api) -> None:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "scans"}, "spec": {"hard": {"count/jobs.batch": "2"}},
    }  # fmt: skip
    await installation.start(max_attempts=1)
    await api.create(
        quota, namespace=installation.namespace
    )  # it refuses all until it has counted, which uses no attempt up either
    first, second = await installation.submit(), await installation.submit()
    for scan_id in (first, second):
        await installation.event(scan_id, "scan.launched")
    third = await installation.submit()
    deferred = await installation.event(third, "scan.launch-deferred")
    assert "exceeded quota" in deferred["reason"]
    backlog = (await installation.get("/scans/backlog"))["entries"]
    assert [entry["scan_id"] for entry in backlog] == [third]
    assert backlog[0]["next_attempt"] == 0
    (problem,) = (await installation.get(f"/scan/{third}/status"))["problems"]
    assert "quota" in problem["text"]

    await installation.delete(first)
    await installation.event(third, "scan.launched", limit_s=90)
    await installation.running_pod(third)
    kinds = [event["type"] for event in await installation.events(third)]
    assert "scan.launch-failed" not in kinds
    await eventually(lambda: installation.gone(first), "nothing is left of the deleted scan")


async def test_a_quota_that_stops_the_pod_is_told_and_outlived(installation: Installation, api: Api) -> None:
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "memory"}, "spec": {"hard": {"requests.memory": "1M"}},
    }  # fmt: skip
    await api.create(quota, namespace=installation.namespace)
    await installation.start()
    scan_id = await installation.submit()

    async def told() -> str:
        problems = (await installation.get(f"/scan/{scan_id}/status"))["problems"]
        return next((problem["text"] for problem in problems if problem["code"] == "scanner-pod-without-quota"), "")

    text = await installation.explained(scan_id, eventually(told, "the status says why there is no pod"))
    assert "exceeded quota" in text
    assert "requests.memory" in text
    await api.patch("ResourceQuota", installation.namespace, "memory", {"spec": {"hard": {"requests.memory": "1Ti"}}})
    await installation.running_pod(scan_id)  # Kubernetes tries again by itself

    async def untold() -> bool:
        return not await told()

    await installation.explained(scan_id, eventually(untold, "the status does not say so any more"))
