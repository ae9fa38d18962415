"""A small Kubernetes API over real HTTP, on kmock's server: enough for Jobs, Pods, Secrets and Leases, and full of faults on demand.

kmock parses requests and records them; its own store has no versions, labels or conflicts, so objects are kept here, as the API
server keeps them: one rising resource version, optimistic locking, label selectors, pages, watches with bookmarks and 410.
No controllers: a test plays them, see ``run_pod``.
"""

import asyncio
import copy
import json
import re
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attrs
import kmock
from aiohttp import web
from kubernetes_asyncio.client import ApiClient

from skydriver_common.kubernetes.client import open_client
from skydriver_common.model.ids import ScanId
from tests.support.waiting import pause

NAMESPACE = "scans"
_PATH = re.compile(r"/(?:api/v1|apis/[^/]+/v1)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?")
Answer = Callable[[kmock.Request], Any]


@dataclass(slots=True)
class Fault:
    """What the next ``times`` requests of this method and kind meet instead of (or, with after, after) an answer.

    in_stream: a watch begins well, and the error comes as its first event. page: the answer is 200 and this, as a proxy would.
    """

    method: str
    kind: str
    times: int = 1
    status: int = 0
    message: str = ""
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    after: bool = False
    in_stream: bool = False
    page: str = ""


@attrs.define(kw_only=True, slots=False)
class Cluster(kmock.RawHandler):
    """The state, and the handler of all requests."""

    objects: dict[tuple[str, str, str], dict[str, Any]] = attrs.field(factory=dict)
    journal: list[tuple[int, str, str, dict[str, Any]]] = attrs.field(factory=list)
    faults: list[Fault] = attrs.field(factory=list)
    calls: list[tuple[str, str, str]] = attrs.field(factory=list)
    version: int = 100
    oldest: int = 0
    grew: asyncio.Event = attrs.field(factory=asyncio.Event)
    asked: asyncio.Condition = attrs.field(factory=asyncio.Condition)
    watches: int = 0
    cut: asyncio.Event = attrs.field(factory=asyncio.Event)
    gone: asyncio.Event = attrs.field(factory=asyncio.Event)

    # what tests do

    def fail(self, method: str, kind: str, status: int = 0, message: str = "", **more: Any) -> Fault:
        """Let requests fail; see ``Fault``."""
        fault = Fault(method, kind, status=status, message=message, **more)
        self.faults.append(fault)
        return fault

    def count(self, method: str, kind: str) -> int:
        """How many requests there were."""
        return sum((each[0], each[1]) == (method, kind) for each in self.calls)

    async def until_asked(self, method: str, kind: str, times: int = 1) -> None:
        """Wait until there were so many requests of this kind."""
        async with asyncio.timeout(120), self.asked:
            await self.asked.wait_for(lambda: self.count(method, kind) >= times)

    async def until_watched(self, watches: int) -> None:
        """Wait until so many watches are open."""
        async with asyncio.timeout(120), self.asked:
            await self.asked.wait_for(lambda: self.watches >= watches)

    def find(self, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any] | None:
        """An object as it is, or None."""
        return self.objects.get((kind, namespace, name))

    async def place(self, kind: str, item: dict[str, Any], namespace: str = NAMESPACE) -> dict[str, Any]:
        """Make or replace an object, and tell the watches."""
        key = (kind, namespace, item["metadata"]["name"])
        change = "MODIFIED" if key in self.objects else "ADDED"
        item["metadata"].setdefault("uid", str(uuid.uuid4()))
        item["metadata"]["namespace"] = namespace
        await self._store(change, key, item)
        return item

    async def remove(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        """Delete an object, and what it owns, as the garbage collector would."""
        key = (kind, namespace, name)
        item = self.objects.pop(key, None)
        if item is None:
            return
        await self._store("DELETED", key, item)
        uid = item["metadata"]["uid"]
        for other, owned in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in owned["metadata"].get("ownerReferences") or ()):
                await self.remove(other[0], other[2], other[1])

    async def run_pod(self, scan_id: ScanId, **status: Any) -> dict[str, Any]:
        """Give the scan's Job a pod with this status, or its pod a new one."""
        job = self.objects["jobs", NAMESPACE, f"skyscan-{scan_id}"]
        name = f"skyscan-{scan_id}-abcde"
        known = self.find("pods", name)
        pod = copy.deepcopy(known) if known else {
            "metadata": {
                "name": name, "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"],
                                     "uid": job["metadata"]["uid"]}],
            },
            "spec": job["spec"]["template"]["spec"],
        }  # fmt: skip
        pod["status"] = status
        return await self.place("pods", pod)

    def forget_versions(self) -> None:
        """As after a compaction: a watch from an older version gets 410."""
        self.version += 1
        self.oldest = self.version
        self.cut_watches()

    def bookmark(self) -> None:
        """Tell every watch that asks for it how far time has come, though nothing of its own has changed."""
        self.version += 1
        self.journal.append((self.version, "BOOKMARK", "", {"metadata": {"resourceVersion": str(self.version)}}))
        self.grew.set()
        self.grew = asyncio.Event()

    def cut_watches(self) -> None:
        """Drop the connections of all watches."""
        self.cut.set()
        self.cut = asyncio.Event()

    def vanish(self) -> None:
        """As when the API server's machine dies: the watches of now stay open and never say anything any more."""
        self.gone.set()
        self.gone = asyncio.Event()

    # what the API does

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        found = _PATH.fullmatch(request.url.path)
        if found is None:
            return _status(404, "the server could not find the requested resource", "NotFound")
        namespace, kind, name = found.groups()
        method = str(request.method.value).upper()
        is_watch = request.params.get("watch") in ("true", "True")
        what = "WATCH" if is_watch else method
        self.calls.append((what, kind, name or ""))
        async with self.asked:
            self.asked.notify_all()
        fault = next((each for each in self.faults if (each.method, each.kind) == (what, kind) and each.times > 0), None)
        if fault is not None:
            fault.times -= 1
            await pause(fault.delay_s)
            if fault.after:
                await self._answer(request, method, kind, namespace, name)
            if fault.drop:
                raw = request._raw_request
                assert raw is not None
                assert raw.transport is not None
                raw.transport.abort()
            if fault.page:
                return web.Response(text=fault.page, content_type="text/html")
            if fault.in_stream:
                error = {"type": "ERROR", "object": {"kind": "Status", "code": fault.status, "message": fault.message}}
                return web.Response(text=json.dumps(error) + "\n", content_type="application/json")
            if fault.drop or fault.status:
                return _status(fault.status or 500, fault.message, fault.reason, fault.headers)
        if is_watch:
            return await self._watch(request, kind, namespace)
        return await self._answer(request, method, kind, namespace, name)

    async def _answer(self, request: kmock.Request, method: str, kind: str, namespace: str, name: str | None) -> web.Response:
        match method, name:
            case "GET", None:
                return self._list(request, kind, namespace)
            case "POST", None:
                return await self._create(request, kind, namespace)
            case "DELETE", None:
                for key, item in list(self.objects.items()):
                    if key[:2] == (kind, namespace) and _selects(request, item):
                        await self.remove(kind, key[2], namespace)
                return web.json_response({"kind": "List", "metadata": {}, "items": []})
        key = (kind, namespace, str(name))
        known = self.objects.get(key)
        if known is None:
            return _status(404, f'{kind} "{name}" not found', "NotFound")
        match method:
            case "GET":
                return web.json_response(known)
            case "DELETE":
                await self.remove(kind, str(name), namespace)
                return web.json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
            case "PUT":
                sent = request.data["metadata"].get("resourceVersion")
                if sent and sent != known["metadata"]["resourceVersion"]:
                    return _status(
                        409, "the object has been modified; please apply your changes to the latest version", "Conflict"
                    )
                request.data["metadata"]["uid"] = known["metadata"]["uid"]
                return web.json_response(await self.place(kind, request.data, namespace))
            case "PATCH":
                patched = copy.deepcopy(known)
                _merge(patched, request.data)
                return web.json_response(await self.place(kind, patched, namespace))
        return _status(405, "method not allowed", "MethodNotAllowed")

    async def _create(self, request: kmock.Request, kind: str, namespace: str) -> web.Response:
        item = request.data
        name = item["metadata"]["name"]
        if (kind, namespace, name) in self.objects:
            return _status(409, f'{kind} "{name}" already exists', "AlreadyExists")
        return web.json_response(await self.place(kind, item, namespace), status=201)

    def _list(self, request: kmock.Request, kind: str, namespace: str) -> web.Response:
        items = [item for key, item in sorted(self.objects.items()) if key[:2] == (kind, namespace) and _selects(request, item)]
        start, limit = int(request.params.get("continue") or 0), int(request.params.get("limit") or 10_000)
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"kind": "List", "metadata": metadata, "items": items[start : start + limit]})

    async def _watch(self, request: kmock.Request, kind: str, namespace: str) -> web.StreamResponse:
        since = int(request.params["resourceVersion"])
        if since < self.oldest:
            return _status(410, "too old resource version", "Expired")
        response = web.StreamResponse()
        response.content_type = "application/json"
        raw = request._raw_request
        assert raw is not None
        await response.prepare(raw)
        cut, gone, position = self.cut, self.gone, 0
        self.watches += 1
        async with self.asked:
            self.asked.notify_all()
        try:
            while not cut.is_set():
                if gone.is_set():
                    await cut.wait()
                    break
                grew = self.grew
                while position < len(self.journal):
                    version, change, where, item = self.journal[position]
                    position += 1
                    is_bookmark = change == "BOOKMARK" and request.params.get("allowWatchBookmarks") in ("true", "True")
                    if version > since and (is_bookmark or (where == f"{kind}/{namespace}" and _selects(request, item))):
                        await response.write(json.dumps({"type": change, "object": item}).encode() + b"\n")
                if position == len(self.journal):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(grew.wait(), 0.05)
        finally:
            self.watches -= 1
        return response

    async def _store(self, change: str, key: tuple[str, str, str], item: dict[str, Any]) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        if change != "DELETED":
            self.objects[key] = item
        self.journal.append((self.version, change, f"{key[0]}/{key[1]}", copy.deepcopy(item)))
        self.grew.set()
        self.grew = asyncio.Event()


def _selects(request: kmock.Request, item: dict[str, Any]) -> bool:
    labels = item["metadata"].get("labels") or {}
    wanted = [part.split("=") for part in (request.params.get("labelSelector") or "").split(",") if part]
    return all(labels.get(name) == value for name, value in wanted)


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _status(code: int, message: str, reason: str = "", headers: dict[str, str] | None = None) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.json_response(body, status=code, headers=headers)


@asynccontextmanager
async def a_cluster() -> AsyncIterator[tuple[Cluster, ApiClient]]:
    """A cluster that listens on loopback, and our client for it, by a KUBECONFIG as an operator would have."""
    async with Cluster() as cluster, kmock.Server(cluster) as server:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": str(server.url).rstrip("/")}}],
            "users": [{"name": "test", "user": {"token": "a-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kubeconfig.json"
            path.write_text(json.dumps(config))
            async with open_client(str(path)) as client:
                yield cluster, client
                cluster.cut_watches()
