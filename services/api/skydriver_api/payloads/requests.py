"""The body of every route: one model each, and one function that parses it. Source: REST contract 4.

Each function takes the raw body and raises InvalidBody with all problems at once.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict

from skydriver_api.payloads import fields as f
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.model.worker_limits import WorkerLimits
from skydriver_common.payloads.field_errors import FieldError, InvalidBody, shown
from skydriver_common.payloads.jsonbody import Body, NotJson, located, member_extents, read_object
from skydriver_common.payloads.reports import ParsedPatch, PatchBody, checked

_ALIASES = {
    "request_clusters": "cluster",
    "scanner_server_memory_bytes": "scanner_server_memory",
    "worker_memory_bytes": "worker_memory",
    "worker_disk_bytes": "worker_disk",
    "scanner_server_env_from_user": "scanner_server_env",
}
_EVENT = "event_i3live_json"
_EMPTY_OBJECT = b"{}"
_ANY_VARIABLE = UserVariables()
_DEFAULT_LIMITS = WorkerLimits()


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _whole_scan_request(schema: dict[str, Any]) -> None:
    """Add the older names of fields, which have the shape of the new ones, and say what must be there."""
    properties = schema["properties"]
    for new, old in _ALIASES.items():
        # a generated client would send the default of one name beside what its user gives under the other
        default = properties[new].pop("default", None)
        if isinstance(default, int):
            properties[new]["description"] += f" ({default})"
        properties[old] = properties[new] | {"deprecated": True}
        del properties[old]["title"]  # two types of one name are too many for generators of clients
    empty = [{"type": "string", "maxLength": 0}, {"type": "integer", "minimum": 0, "maximum": 0}, {"type": "null"}]
    properties["memory"] = {"anyOf": empty, "deprecated": True}
    schema["required"] = [name for name in schema["required"] if name != "request_clusters"]
    del properties[_EVENT]["default"]  # "{}" stands for none, which is no event
    # by "if" and "not", which generators of clients leave alone: of "anyOf" they would make several types of body
    schema["not"] = {
        "not": {"anyOf": [{"type": "object", "required": ["request_clusters"]}, {"type": "object", "required": ["cluster"]}]}
    }
    schema["if"] = {"required": ["i3_event_id"], "properties": {"i3_event_id": {"type": "string", "minLength": 1}}}
    schema["then"] = {"properties": {_EVENT: {"type": "object", "maxProperties": 0}}}
    schema["else"] = {"required": [_EVENT], "properties": {_EVENT: {"minProperties": 1}}}


class ScanRequestBody(_Model):
    """``POST /scan`` without its event, names of today only."""

    docker_tag: f.DockerTag
    reco_algo: f.RecoAlgo
    nsides: f.Nsides
    real_or_simulated_event: f.EventKind
    max_pixel_reco_time: f.Seconds
    request_clusters: f.Clusters
    i3_event_id: f.Text = ""
    predictive_scanning_threshold: f.Threshold = 1.0
    scanner_server_memory_bytes: Annotated[int, f.size_bytes(1_024_000_000), f.SIZE_SCHEMA] = 1_024_000_000
    worker_memory_bytes: Annotated[int, f.size_bytes(8_000_000_000), f.SIZE_SCHEMA] = 8_000_000_000
    worker_disk_bytes: Annotated[int, f.size_bytes(1_000_000_000), f.SIZE_SCHEMA] = 1_000_000_000
    debug_mode: f.DebugModes = []
    classifiers: f.Classifiers = {}
    priority: f.Priority = 0
    scanner_server_env_from_user: f.Environment = {}
    manifest_projection: f.Projection = None


class WholeScanRequest(ScanRequestBody):
    """``POST /scan`` as it may be sent, older names included: for the description only; ``parse_scan_request`` reads it."""

    model_config = ConfigDict(json_schema_extra=_whole_scan_request)

    event_i3live_json: f.I3Event = {}


class ParsedScanRequest:
    """A checked scan request. event: JSON of the i3 event as sent, None when ``i3_event_id`` names a stored one."""

    def __init__(self, body: ScanRequestBody, event: bytes | None) -> None:
        self._body = body
        self.event = event
        self.docker_tag = body.docker_tag
        self.i3_event_id = body.i3_event_id
        self.manifest_projection = body.manifest_projection

    def scan_request(self, *, docker_tag: str, i3_event_id: str) -> dict[str, Any]:
        """The ScanRequest to be stored (REST contract 5.4) without its two id fields."""
        body = self._body
        return {
            "docker_tag": docker_tag,
            "scanner_server_memory_bytes": body.scanner_server_memory_bytes,
            "reco_algo": body.reco_algo,
            "nsides": body.nsides,
            "real_or_simulated_event": body.real_or_simulated_event,
            "predictive_scanning_threshold": body.predictive_scanning_threshold,
            "classifiers": body.classifiers,
            "request_clusters": body.request_clusters,
            "worker_memory_bytes": body.worker_memory_bytes,
            "worker_disk_bytes": body.worker_disk_bytes,
            "max_pixel_reco_time": body.max_pixel_reco_time,
            "priority": body.priority,
            "debug_mode": body.debug_mode,
            "i3_event_id": i3_event_id,
            "scanner_server_env_from_user": body.scanner_server_env_from_user,
        }


class RescanBody(_Model):
    """``POST /scan/{id}/actions/rescan``."""

    abort_first: f.Boolean = False
    replace_scan: f.Boolean = False
    no_redirect: f.Boolean = False
    manifest_projection: f.Projection = None


class DeleteBody(_Model):
    """``DELETE /scan/{id}``."""

    delete_completed_scan: f.Boolean = False
    no_redirect: f.Boolean = False
    manifest_projection: f.Projection = None


class WorkflowIdBody(_Model):
    """``POST /scan/{id}/ewms/workflow-id``."""

    workflow_id: f.Name
    ewms_address: f.Address


class FindBody(_Model):
    """``POST /scans/find``. The filter itself is read by ``skydriver_api.find``."""

    filter: f.JsonObject
    include_deleted: f.Boolean = False
    manifest_projection: f.FindProjection = None
    limit: f.PositiveIfGiven = None
    after: f.NonBlankIfGiven = None


class AddWorkersBody(_Model):
    """``POST /scan/{id}/actions/add-workers``."""

    n_workers: f.Workers
    cluster_location: f.Name
    no_redirect: f.Boolean = False


def parse_scan_request(
    raw: bytes,
    *,
    clusters: Mapping[str, int | None],
    limits: WorkerLimits = _DEFAULT_LIMITS,
    variables: UserVariables = _ANY_VARIABLE,
) -> ParsedScanRequest:
    """``POST /scan``: REST contract 4.5. clusters: known names and their caps with ``client-logs`` (None: no cap).

    variables: which a request may set for its scanner server.
    """
    body = read_object(raw, payloads=[_EVENT])
    values, sent_names = _without_aliases(body.values)
    problems = list(body.problems)
    memory = values.pop("memory", None)
    if memory is False or memory not in ("", 0, None):
        problems.append(FieldError("memory", "no longer supported; use worker_memory_bytes"))
    parsed = checked(ScanRequestBody, replace(body, values=values), problems, sent_names)
    event, event_problems = _event(body, values.get("i3_event_id"))
    problems += event_problems
    if parsed is not None:
        name = sent_names.get("request_clusters", "request_clusters")
        problems += _cluster_problems(parsed, clusters, name)
        problems += [FieldError(name, text) for text in limits.exceeded(parsed.request_clusters)]
        name = sent_names.get("scanner_server_env_from_user", "scanner_server_env_from_user")
        refused = variables.refused(parsed.scanner_server_env_from_user)
        problems += [FieldError(f"{name}.{variable}", why) for variable, why in refused.items()]
    if problems or parsed is None:
        raise InvalidBody(problems)
    return ParsedScanRequest(parsed, event)


def parse_rescan(raw: bytes) -> RescanBody:
    """``POST /scan/{id}/actions/rescan``: REST contract 4.6."""
    return _parse(RescanBody, raw, optional=True)


def parse_delete(raw: bytes) -> DeleteBody:
    """``DELETE /scan/{id}``: REST contract 4.8."""
    return _parse(DeleteBody, raw, optional=True)


def parse_workflow_id(raw: bytes) -> WorkflowIdBody:
    """``POST /scan/{id}/ewms/workflow-id``: REST contract 4.16."""
    return _parse(WorkflowIdBody, raw)


def parse_add_workers(raw: bytes, *, limits: WorkerLimits = _DEFAULT_LIMITS) -> AddWorkersBody:
    """``POST /scan/{id}/actions/add-workers``: REST contract 4.7. Of the limits only this call's own number is judged here."""
    parsed = _parse(AddWorkersBody, raw)
    if problems := [FieldError("n_workers", text) for text in limits.exceeded([(parsed.cluster_location, parsed.n_workers)])]:
        raise InvalidBody(problems)
    return parsed


def parse_find(raw: bytes) -> FindBody:
    """``POST /scans/find``: REST contract 4.3."""
    return _parse(FindBody, raw)


def parse_patch(raw: bytes) -> ParsedPatch:
    """``PATCH /scan/{id}/manifest``: REST contract 4.10."""
    return ParsedPatch(_parse(PatchBody, raw))


M = TypeVar("M", bound=BaseModel)


def _parse(model: type[M], raw: bytes, *, optional: bool = False) -> M:
    body = read_object(raw, optional=optional)
    problems = list(body.problems)
    parsed = checked(model, body, problems)
    if problems or parsed is None:
        raise InvalidBody(problems)
    return parsed


def _without_aliases(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values under today's names, and which name was sent: the first that is not empty wins, new before old.

    A null is not absent (REST contract 1.1): it is kept, to be refused.
    """
    result = dict(values)
    sent: dict[str, str] = {}
    for new, old in _ALIASES.items():
        present = [name for name in (new, old) if name in values]
        if not present:
            continue
        nulls = [name for name in present if values[name] is None]
        chosen = next((name for name in nulls or present if not _is_empty(values[name])), present[0])
        result.pop(old, None)
        result[new] = values[chosen]
        sent[new] = chosen
    return result, sent


def _is_empty(value: Any) -> bool:
    """Whether a value stands for none: ``0`` and what holds nothing; null and booleans don't."""
    return value is not None and not isinstance(value, bool) and value in (0, {}, [], "")


def _event(body: Body, i3_event_id: Any) -> tuple[bytes | None, list[FieldError]]:
    """The event's own bytes, and what is wrong with the pair of event fields: exactly one must be given."""
    piece = body.payloads.get(_EVENT, _EMPTY_OBJECT)
    if piece.startswith(b'"'):
        event, why = _event_of_text(piece)
        if why:
            return None, [FieldError(_EVENT, why)]
    elif not piece.startswith(b"{"):
        return None, [FieldError(_EVENT, "must be a JSON object or a string that contains one")]
    else:
        event = None if piece[1:-1].strip() == b"" else piece
    if (event is not None) == bool(i3_event_id):
        return None, [FieldError(_EVENT, "exactly one of event_i3live_json and i3_event_id must be given")]
    return event, []


def _event_of_text(piece: bytes) -> tuple[bytes | None, str]:
    """The JSON object inside a JSON string, or why it is none."""
    try:
        text = str(json.loads(piece))
        whole, event = text.encode(), text.strip().encode()
    except ValueError:
        return None, "must be a JSON object or a string that contains one"
    try:
        extents = member_extents(event)
    except NotJson as error:
        begin = len(whole) - len(text.lstrip().encode())
        where = located(whole, NotJson(error.why, begin + error.position))
        return None, f"must be a JSON object or a string that contains one; the string is {where}"
    return (event, "") if extents else (None, "must not be empty")


def _cluster_problems(body: ScanRequestBody, known: Mapping[str, int | None], name: str) -> list[FieldError]:
    """Unknown clusters, and caps of workers with client logs, summed over all pairs of a cluster."""
    workers: dict[str, int] = {}
    for cluster, count in body.request_clusters:
        workers[cluster] = workers.get(cluster, 0) + count
    problems = [
        FieldError(name, f"unknown cluster '{shown(cluster)}'; known clusters: {', '.join(known)}")
        for cluster in workers
        if cluster not in known
    ]
    if "client-logs" in body.debug_mode:
        for cluster, count in workers.items():
            cap = known.get(cluster)
            if cap is not None and count > cap:
                problems.append(
                    FieldError(name, f"at most {cap} workers on cluster {cluster} while debug_mode contains client-logs")
                )
    return problems
