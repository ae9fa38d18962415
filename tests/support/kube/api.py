"""The Kubernetes API in plain HTTP, as administrator: tests look at what is there without the code under test."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp

from tests.support.waiting import until

JSON_PATCH, MERGE_PATCH, APPLY = (
    "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml",
)  # fmt: skip

_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ResourceQuota": "/api/v1/namespaces/{}/resourcequotas",
    "Event": "/api/v1/namespaces/{}/events",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}

Object = dict[str, Any]
Answer = TypeVar("Answer")


class ApiError(AssertionError):
    """An answer that is no success. status: of HTTP; message: of the API server."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """Objects by kind, namespace and name."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def create(self, thing: Object, *, namespace: str = "", dry_run: bool = False) -> Object:
        """Create an object; unknown fields are errors. Raises ApiError."""
        options = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return await self._call("POST", path(thing["kind"], namespace), json=thing, params=options)

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        try:
            return await self._call("GET", f"{path(kind, namespace)}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """All objects of a kind that match the label selector."""
        found: list[Object] = (await self._call("GET", path(kind, namespace), params={"labelSelector": selector}))["items"]
        return found

    async def patch(self, kind: str, namespace: str, name: str, change: Any, *, status: bool = False) -> Object:
        """Merge a change into an object (or its status)."""
        where = f"{path(kind, namespace)}/{name}" + ("/status" if status else "")
        return await self._call("PATCH", where, json=change, headers={"Content-Type": MERGE_PATCH})

    async def delete(self, kind: str, namespace: str, name: str, **options: Any) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            await self._call("DELETE", f"{path(kind, namespace)}/{name}", json=options or None)
        except ApiError as error:
            if error.status != 404:
                raise

    async def token(self, namespace: str, account: str) -> str:
        """A token of a service account."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        made = await self._call("POST", f"{path('ServiceAccount', namespace)}/{account}/token", json=request)
        token: str = made["status"]["token"]
        return token

    async def _call(self, method: str, where: str, **arguments: Any) -> Object:
        async with self._session.request(method, where, **arguments) as answer:
            content: Any = await answer.json(content_type=None)
            if answer.status >= 400:
                raise ApiError(answer.status, str((content or {}).get("message", content)))
            return dict(content)


def path(kind: str, namespace: str) -> str:
    """The URL path of a kind's objects."""
    return _PATHS[kind].format(namespace)


def spec_of(job: Object) -> Object:
    """The spec of a Job without what the API server has added, good for another Job."""
    spec = {key: value for key, value in job["spec"].items() if key not in ("selector", "suspend")}
    template = spec["template"]
    kept = {
        name: value
        for name, value in template["metadata"]["labels"].items()
        if not name.endswith(("job-name", "controller-uid"))
    }
    return spec | {"template": template | {"metadata": template["metadata"] | {"labels": kept}}}


async def eventually(
    question: Callable[[], Awaitable[Answer | None]], what: str, *, limit_s: float = 60.0, every_s: float = 0.1
) -> Answer:
    """The first true answer. An API server that is away for a moment is waited for."""
    return await until(question, what, limit_s, every_s, not_yet=(aiohttp.ClientError, OSError, TimeoutError))
