"""The OpenAPI document, made from the routes and from the models that check the bodies. Source: REST contract 4.2."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from skydriver_api.http.route import Route
from skydriver_api.payloads.parameters import (
    DEFAULT_EVENTS,
    DEFAULT_SCANS,
    IDEMPOTENCY_KEY_PATTERN,
    MAX_EVENTS,
    MAX_LISTED_ID,
    MAX_LISTED_PRIORITY,
    MAX_SCANS,
)
from skydriver_api.payloads.requests import AddWorkersBody, WholeScanRequest
from skydriver_api.payloads.responses import Error
from skydriver_common.auth import Role
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_scanner import protocol

VERSION = "1.0.0"
_REF = "#/components/schemas/{model}"
_NO_OTHER_LIMITS = WorkerLimits()
_BOOLEAN_PATTERN = "^([tT][rR][uU][eE]|[tTyYfFnN01]|[yY][eE][sS]|[oO][nN]|[fF][aA][lL][sS][eE]|[nN][oO]|[oO][fF][fF])?$"
_SCAN_ID = {"name": "scan_id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_]+$"}}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_FLAG = {"type": "string", "pattern": _BOOLEAN_PATTERN}
_LISTED_ID = {"type": "string", "pattern": "^[A-Za-z0-9_-]{0,64}$"}
_LISTED_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_LISTED_ID}
_LISTED_PRIORITY = {"type": "integer", "minimum": -MAX_LISTED_PRIORITY, "maximum": MAX_LISTED_PRIORITY}
_MOMENT = {"type": "string"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "no_redirect": _query("no_redirect", _FLAG, "Do not redirect to the scan that replaced this one (true/false)."),
    "include_deleted": _query("include_deleted", _FLAG, "Also find the scan if it is deleted (true/false)."),
    "projection": _query("projection", {"type": "string"}, "Manifest fields to return, joined by `|`; `*`: all."),
    "after": _query("after", {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "Only events after this version."),
    "limit": _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": DEFAULT_EVENTS},
        "Maximum number of events to return.",
    ),
    "after_scan": _query(
        "after", {"type": "string"}, "Only scans after this one in the list: the last scan id of the previous page."
    ),
    "scans_limit": _query(
        "limit", {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, "Maximum number of scans to return."
    ),
    "list_state": _query(
        "state",
        {"type": "string"},
        "Scan states, joined by commas: whole names, their beginnings (`pending`, `in_progress`, `aborted`, `stopped`, `finished`),"
        " or `running`, `waiting`, `complete`.",
    ),
    "list_run_id": _query("run_id", _LISTED_NUMBER, "Run of the event, once the scanner has reported it."),
    "list_event_id": _query("event_id", _LISTED_NUMBER, "Number of the event in its run, once the scanner has reported it."),
    "list_i3_event_id": _query("i3_event_id", _LISTED_ID, "Id of the stored event."),
    "list_ewms_workflow_id": _query("ewms_workflow_id", _LISTED_ID, "The scan's workflow at EWMS."),
    "list_classifier": _query(
        "classifier", {"type": "string"}, "`NAME:VALUE`; may be given several times, then all must match."
    ),
    "list_since": _query("since", _MOMENT, "Requested at this time or later: Unix seconds, or ISO 8601 (UTC by default)."),
    "list_until": _query("until", _MOMENT, "Requested before this time."),
    "list_min_priority": _query("min_priority", _LISTED_PRIORITY, "Priority at least."),
    "list_max_priority": _query("max_priority", _LISTED_PRIORITY, "Priority at most."),
    "list_include_deleted": _query("include_deleted", _FLAG, "List deleted scans too (true/false)."),
    "list_order": _query(
        "order",
        {"type": "string", "enum": ["newest", "oldest", "priority"], "default": "newest"},
        "By the time of the request, or the highest priority first and of equal ones the newest.",
    ),
    "list_after": _query("after", _LISTED_ID, "Only scans after this one in the list: `next` of the previous page."),
    "list_limit": _query(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_SCANS, "default": DEFAULT_SCANS}, "Scans of a page."
    ),
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY_PATTERN}$"},
    "description": "Makes the request safe to retry: the same key and body return the recorded response."
    " A different body is refused with 422.",
}
_PRODUCER_HEADERS = [
    {
        "name": protocol.PRODUCER_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "description": "Identifies one run of one scanner process. With X-Scanner-Sequence it decides which report is the newest.",
    },
    {
        "name": protocol.SEQUENCE_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "description": "Increases with every message of one producer, over the bus and REST alike.",
    },
]
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "With `return=minimal` the response is `{}` instead of the whole result (RFC 7240).",
}
_SCANNER_REPORTS = ("patch_manifest", "put_result")
_ERRORS = {
    400: "Invalid request: each problem is listed with the path of its field",
    401: "Missing or invalid token",
    403: "The token's role does not permit this, or it is valid for another scan",
    404: "Scan not found or deleted",
    413: "The body is too large",
    422: "The scan's state does not allow this, or the Idempotency-Key was used for a different request",
    500: "Internal error, or EWMS failed; contact the admins",
    503: "Temporarily unavailable: retry after Retry-After seconds, with the same Idempotency-Key",
}


def document(routes: Collection[Route], *, clusters: Iterable[str], limits: WorkerLimits = _NO_OTHER_LIMITS) -> dict[str, Any]:
    """Build the OpenAPI 3.1 document of these routes. clusters: names of known clusters. limits: of the numbers of workers."""
    components = response_schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_plain(route.path), {})[route.method.lower()] = _operation(route, components)
    _describe_clusters(components[WholeScanRequest.__name__]["properties"], list(clusters), limits)
    added = components[AddWorkersBody.__name__]
    n_workers = added["properties"]["n_workers"] | {"maximum": limits.per_scan}
    components[AddWorkersBody.__name__] = added | {"properties": added["properties"] | {"n_workers": n_workers}}
    _open_objects([paths, components])
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


def response_schemas(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the JSON Schemas of all responses, by the names of their models."""
    models = {route.response for route in routes} | {Error}
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (model, "validation") for model in sorted(models, key=lambda model: model.__name__)
    ]
    _, generated = models_json_schema(inputs, ref_template=_REF)
    schemas: dict[str, Any] = generated["$defs"]
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return schemas


def _ref(name: str) -> dict[str, str]:
    """A reference to a component."""
    return {"$ref": _REF.format(model=name)}


def _describe_clusters(properties: dict[str, Any], clusters: list[str], limits: WorkerLimits) -> None:
    """Describe which clusters there are and how many workers they take, in both forms and under both names of the field."""
    known = {"enum": clusters}
    count = {"type": "integer", "minimum": 1, "maximum": limits.per_scan}
    for field in ("request_clusters", "cluster"):
        as_object, as_pairs = (dict(form) for form in properties[field]["anyOf"])
        as_object["propertyNames"] = known
        as_object["additionalProperties"] = count
        as_pairs["items"] = as_pairs["items"] | {"prefixItems": [known, count]}
        properties[field] = properties[field] | {"anyOf": [as_object, as_pairs]}


def _open_objects(node: Any) -> None:
    """Say of each object without declared fields that it may hold any: generators of typed clients take silence for "none"."""
    if isinstance(node, list):
        for item in node:
            _open_objects(item)
    elif isinstance(node, dict):
        if node.get("type") == "object" and not node.keys() & {"properties", "required"}:
            node.setdefault("additionalProperties", node.get("maxProperties") != 0)
        for item in node.values():
            _open_objects(item)


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
            *([_IDEMPOTENCY_KEY] if route.method == "POST" and route.sends_command is not None else []),
            *(_PRODUCER_HEADERS if route.handler.__name__ in _SCANNER_REPORTS else []),
            *([_PREFER] if route.handler.__name__ == "put_result" else []),
        ],
        "responses": _responses(route, has_scan),
        "security": [{"bearer": []}] if route.roles else [],
    }
    if route.description:
        operation["description"] = route.description
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
    schema = route.body.model_json_schema(ref_template=_REF)
    for name, component in {**schema.pop("$defs", {}), route.body.__name__: schema}.items():
        components[name] = component
        _without_null_defaults(component)
    return _ref(route.body.__name__)


def _without_null_defaults(schema: dict[str, Any]) -> None:
    """A field that may be left out but not be null has None as its default here, which is no value that a client could send."""
    for field in schema.get("properties", {}).values():
        if field.get("default", ...) is None:
            del field["default"]


def _responses(route: Route, has_scan: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(route.response.__name__)}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    if route.redirects:
        responses["307"] = {"description": "The scan was replaced: repeat the request at `Location` (same method and body)"}
    statuses = {503, *route.extra_statuses}
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
    error = {"application/json": {"schema": _ref("Error")}}
    for status in sorted(statuses):
        responses[str(status)] = {"description": _ERRORS[status], "content": error}
    return responses
