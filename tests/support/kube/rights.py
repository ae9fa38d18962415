"""Service accounts with the Roles that ``deploy/`` ships, in a namespace of a test."""

import copy
from pathlib import Path
from typing import Any

from tests.support.kube.api import Api, Object
from tests.support.kube.control_plane import ControlPlane
from tests.support.kube.manifests import one, rendered

ACCOUNTS = ("skydriver-dispatcher", "skydriver-ewms-bridge")


def role_of(plane: ControlPlane, account: str) -> Object:
    """The Role shipped for a service."""
    return one(rendered(plane, "base/scans"), "Role", account)


async def grant(plane: ControlPlane, api: Api, namespace: str, account: str, *, rules: list[Any] | None = None) -> Path:
    """Make the account with its shipped Role (or with other rules), bound as shipped; a kubeconfig with its token."""
    objects = rendered(plane, "base/scans")
    role, binding = (copy.deepcopy(one(objects, kind, account)) for kind in ("Role", "RoleBinding"))
    if rules is not None:
        role["rules"] = rules
    for thing in (role, binding):
        thing["metadata"]["namespace"] = namespace
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", account)
    subject["namespace"] = namespace
    await api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}, namespace=namespace)
    await api.create(role, namespace=namespace)
    await api.create(binding, namespace=namespace)
    token = await api.token(namespace, account)
    return plane.kubeconfig_with_token(f"{namespace}-{account}", token, namespace=namespace)
