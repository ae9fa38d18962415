"""What ``deploy/`` holds, as kustomize renders it."""

import json
from typing import Any

import yaml

from tests.support.kube.api import Object
from tests.support.kube.control_plane import REPO, ControlPlane

DEPLOY = REPO / "deploy" / "kubernetes"
OVERLAYS = ("production", "trial")


def rendered(plane: ControlPlane, folder: str) -> list[Object]:
    """The objects of a folder below ``deploy/kubernetes``."""
    text = plane.kubectl("kustomize", str(DEPLOY / folder)).stdout
    return [thing for thing in yaml.safe_load_all(text) if thing]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of this kind and name."""
    (found,) = [thing for thing in objects if (thing["kind"], thing["metadata"]["name"]) == (kind, name)]
    return found


def text_of(objects: list[Object]) -> str:
    """The objects as one text for ``kubectl apply -f -``."""
    return "\n---\n".join(json.dumps(thing) for thing in objects)


def environment_of(objects: list[Object], deployment: Object) -> dict[str, str]:
    """The environment of a Deployment's container; of Secrets a placeholder that fits: an URL or a word."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        environment |= one(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", ()):
        environment[variable["name"]] = _value(objects, variable)
    return environment


def _value(objects: list[Object], variable: dict[str, Any]) -> str:
    match variable:
        case {"value": value}:
            return str(value)
        case {"valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}:
            return str(one(objects, "ConfigMap", name)["data"][key])
        case {"valueFrom": {"secretKeyRef": {"name": "skydriver-database"}}}:
            return "postgresql://user:word@database/skydriver"
        case {"valueFrom": {"secretKeyRef": {"name": "skydriver-bus"}}}:
            return "amqps://user:word@bus/skydriver"
        case {"valueFrom": {"secretKeyRef": _}}:
            return "placeholder"
        case _:
            raise AssertionError(f"no value for {variable}")
