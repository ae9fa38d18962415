"""The OpenAPI document, made from the routes and from the models that check the bodies. Source: REST contract 4.2."""

import re
from collections.abc import Iterable
from typing import Any

from skydriver_api.commands.idempotency import KEY_PATTERN
from skydriver_api.http import schemas
from skydriver_api.http.route import Route
from skydriver_api.payloads.requests import AddWorkersBody, WholeScanRequest
from skydriver_api.routes.events import DEFAULT_EVENTS, MOST_EVENTS
from skydriver_common.auth import Role
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_scanner import protocol

VERSION = "1.0.0"
_NO_OTHER_LIMITS = WorkerLimits()
_BOOLEAN_PATTERN = "^([tT][rR][uU][eE]|[tTyYfFnN01]|[yY][eE][sS]|[oO][nN]|[fF][aA][lL][sS][eE]|[nN][oO]|[oO][fF][fF])?$"
_SCAN_ID = {"name": "scan_id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_]+$"}}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_FLAG = {"type": "string", "pattern": _BOOLEAN_PATTERN}
PARAMETERS: dict[str, dict[str, Any]] = {
    "no_redirect": _query("no_redirect", _FLAG, "Answer for this very scan, even when it was replaced (true/false)."),
    "include_deleted": _query("include_deleted", _FLAG, "Show a deleted scan (true/false)."),
    "projection": _query("projection", {"type": "string"}, "Manifest fields to keep, joined by `|`; `*`: all."),
    "after": _query("after", {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "Only events after this version."),
    "limit": _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": DEFAULT_EVENTS},
        "The most events of the answer.",
    ),
    "after_scan": _query("after", {"type": "string"}, "Only scans that stand after this one in the list: the last of a page."),
    "scans_limit": _query("limit", {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, "The most scans of the answer."),
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
    "description": "Makes the request safe to repeat: the same key and body give the recorded answer again.",
}
_SENDER = [
    {
        "name": protocol.PRODUCER_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "description": "One life of one scanner process; with the number below, so that the newest report stands.",
    },
    {
        "name": protocol.SEQUENCE_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "description": "Grows with every message of a producer, on the bus and here.",
    },
]
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`return=minimal`: the answer is `{}` and not the whole result (RFC 7240).",
}
_REPORTS = ("patch_manifest", "put_result")
_ERRORS = {
    400: "The request is wrong: every problem is named, with the path of its field",
    401: "No valid token",
    403: "The token's role does not allow this, or it is good for another scan only",
    404: "There is no such scan, or it is deleted",
    413: "The body is too large",
    422: "The scan's state does not allow this, or the Idempotency-Key was used for another request",
    500: "A part behind the server failed; the admins can help",
    503: "Try again later (Retry-After): nothing was changed, or the request may be repeated",
}


def document(routes: Iterable[Route], *, clusters: Iterable[str], limits: WorkerLimits = _NO_OTHER_LIMITS) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes. clusters: the names a request may give. limits: of the numbers of workers."""
    components: dict[str, Any] = dict(schemas.COMPONENTS)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_plain(route.path), {})[route.method.lower()] = _operation(route, components)
    _name_the_clusters(components[WholeScanRequest.__name__]["properties"], list(clusters), limits)
    added = components[AddWorkersBody.__name__]
    n_workers = added["properties"]["n_workers"] | {"maximum": limits.per_scan}
    components[AddWorkersBody.__name__] = added | {"properties": added["properties"] | {"n_workers": n_workers}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SkyDriver REST API",
            "version": VERSION,
            "description": "Scan the sky for the origin of a neutrino event.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _name_the_clusters(properties: dict[str, Any], clusters: list[str], limits: WorkerLimits) -> None:
    """Say which clusters there are and how many workers they take, in both forms and under both names of the field."""
    known = {"enum": clusters}
    count = {"type": "integer", "minimum": 1, "maximum": limits.per_scan}
    for field in ("request_clusters", "cluster"):
        as_object, as_pairs = (dict(form) for form in properties[field]["anyOf"])
        as_object["propertyNames"] = known
        as_object["additionalProperties"] = count
        as_pairs["items"] = as_pairs["items"] | {"prefixItems": [known, count]}
        properties[field] = properties[field] | {"anyOf": [as_object, as_pairs]}


def _plain(path: str) -> str:
    """``/scan/{scan_id:[a-z]+}/status`` to ``/scan/{scan_id}/status``."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    has_scan = "{scan_id" in route.path
    names = [*route.query, *(["no_redirect"] if route.redirects else [])]
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [
            *([_SCAN_ID] if has_scan else []),
            *(PARAMETERS[name] for name in names),
            *([_KEY] if route.method == "POST" and route.sends_command is not None else []),
            *(_SENDER if route.handler.__name__ in _REPORTS else []),
            *([_PREFER] if route.handler.__name__ == "put_result" else []),
        ],
        "responses": _responses(route, has_scan),
        "security": [{"bearer": []}] if route.roles else [],
    }
    if route.roles:
        operation["x-roles"] = sorted(role.value for role in Role if role in route.roles)
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_is_optional,
            "content": {"application/json": {"schema": _body_schema(route, components)}},
        }
    return operation


def _body_schema(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    assert route.body is not None
    schema = route.body.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, component in {**schema.pop("$defs", {}), route.body.__name__: schema}.items():
        components[name] = component
        _without_null_defaults(component)
    return schemas.ref(route.body.__name__)


def _without_null_defaults(schema: dict[str, Any]) -> None:
    """A field that may be left out but not be null has None as its default here, which is no value that a client could send."""
    for field in schema.get("properties", {}).values():
        if field.get("default", ...) is None:
            del field["default"]


def _responses(route: Route, has_scan: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": route.answer}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    if route.redirects:
        responses["307"] = {"description": "The scan was replaced: ask for the one in `Location` (same method and body)"}
    statuses = {503, *route.refusals}
    if route.roles:
        statuses |= {401, 403}
    if has_scan:
        statuses.add(404)
    if has_scan or route.body is not None or route.query:
        statuses.add(400)
    if route.body is not None:
        statuses.add(413)
    if route.method == "POST" and route.sends_command is not None:
        statuses.add(422)
    if not route.roles:
        statuses.discard(503)
    error = {"application/json": {"schema": schemas.ref("Error")}}
    for status in sorted(statuses):
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    return responses
