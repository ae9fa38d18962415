"""Shapes of the answers as JSON Schema, for the OpenAPI document. Source: REST contract 4, 5."""

from collections.abc import Collection
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_YES_NO: Schema = {"type": "boolean"}
_FREE: Schema = {"type": "object"}
_NULL: Schema = {"type": "null"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, _NULL]}


def _object(properties: dict[str, Schema], *, optional: Collection[str] = ()) -> Schema:
    """A closed object; all of its members are always there unless they are optional."""
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": required} if required else schema


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _named(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def ref(name: str) -> Schema:
    """A reference to one of COMPONENTS."""
    return {"$ref": f"#/components/schemas/{name}"}


EMPTY: Schema = {"type": "object", "maxProperties": 0}

_PROGRESS = _object(
    {
        "summary": _TEXT,
        "epilogue": _TEXT,
        "tallies": _FREE,
        "processing_stats": _object(
            {"start": _FREE, "runtime": _FREE, "rate": _FREE, "end": _TEXT, "finished": _YES_NO, "predictions": _FREE}
        ),
        "predictive_scanning_threshold": _NUMBER,
        "last_updated": _TEXT,
        "start": _or_null(_WHOLE),
        "end": _or_null(_WHOLE),
    }
)
_EVENT_METADATA = _object(
    {"run_id": _WHOLE, "event_id": _WHOLE, "event_type": _or_null(_TEXT), "mjd": _NUMBER, "is_real_event": _YES_NO}
)
_WORKFORCE = {
    "statuses": _named(_named(_WHOLE)),
    "n_running": _WHOLE,
    "top_errors": _named(_WHOLE),
}

COMPONENTS: dict[str, Schema] = {
    "Manifest": _object(
        _MANIFEST := {
            "scan_id": _TEXT,
            "timestamp": _NUMBER,
            "is_deleted": _YES_NO,
            "scanner_server_args": _TEXT,
            "ewms_workflow_id": _or_null(_TEXT),
            "ewms_address": _or_null(_TEXT),
            "ewms_task": {"anyOf": [_TEXT, _FREE]},
            "priority": _WHOLE,
            "classifiers": _FREE,
            "i3_event_id": _TEXT,
            "event_i3live_json_dict": {"anyOf": [_TEXT, _FREE]},
            "event_i3live_json_dict__hash": _or_null(_TEXT),
            "event_metadata": _or_null(_EVENT_METADATA),
            "scan_metadata": _or_null(_FREE),
            "progress": _or_null(_PROGRESS),
            "replaced_by_scan_id": _or_null(_TEXT),
            "last_updated": _NUMBER,
        },
        optional=_MANIFEST,  # a projection leaves fields out
    )
    | {"description": "What is known of a scan. A projection keeps some of the fields."},
    "NoResult": EMPTY | {"description": "There is none yet."},
    "StoredResult": _object({"scan_id": _TEXT, "skyscan_result": _FREE, "is_final": _YES_NO}),
    "Result": {
        "anyOf": [ref("StoredResult"), ref("NoResult")],  # clients take the first that can be read
        "description": "A skymap, or {} while there is none. It may hold the bare tokens NaN, Infinity and -Infinity.",
    },
    "Scan": _object({"manifest": ref("Manifest"), "result": ref("Result")}),
    "Manifests": _object({"manifests": _array(ref("Manifest"))}),
    "Backlog": _object(
        {
            "entries": _array(
                _object(
                    {
                        "scan_id": _TEXT,
                        "timestamp": _NUMBER,
                        "pickled_k8s_job": _NULL,
                        "priority": _WHOLE,
                        "pending_timestamp": _NUMBER,
                        "next_attempt": _WHOLE,
                    }
                )
            )
        }
    ),
    "ScanRequest": _object(
        {
            "scan_id": _TEXT,
            "rescan_ids": _array(_TEXT),
            "docker_tag": _TEXT,
            "scanner_server_memory_bytes": _WHOLE,
            "reco_algo": _TEXT,
            "nsides": _named(_WHOLE),
            "real_or_simulated_event": _TEXT,
            "predictive_scanning_threshold": _NUMBER,
            "classifiers": _FREE,
            "request_clusters": _array(_array({"anyOf": [_TEXT, _WHOLE]}) | {"minItems": 2, "maxItems": 2}),
            "worker_memory_bytes": _WHOLE,
            "worker_disk_bytes": _WHOLE,
            "max_pixel_reco_time": _WHOLE,
            "priority": _WHOLE,
            "debug_mode": _array(_TEXT),
            "i3_event_id": _TEXT,
            "scanner_server_env_from_user": _FREE,
        }
    ),
    "I3Event": _object({"i3_event": _FREE}),
    "Logs": _object({"scanner_server": _object({"url": _or_null(_TEXT)})}),
    "WorkflowId": _object(
        {
            "workflow_id": _or_null(_TEXT),
            "requested_ewms_workflow": _YES_NO,
            "eligible_for_ewms": _YES_NO,
            "ewms_address": _or_null(_TEXT),
        }
    ),
    "Workforce": _object({"workflow_id": _or_null(_TEXT), **_WORKFORCE}),
    "Taskforces": _object({"taskforces": _array(_FREE)}),
    "Status": _object(
        {
            "scan_state": _TEXT,
            "is_deleted": _YES_NO,
            "ewms_deactivated": _or_null({"type": "string", "enum": ["ABORTED", "FINISHED"]}),
            "scan_complete": _YES_NO,
            "scanner_server_logs": _object({"url": _or_null(_TEXT)}),
            "problems": _array(_object({"code": _TEXT, "text": _TEXT})),
            "ewms_as_of": _or_null(_NUMBER),
            "ewms_workforce": ref("Workforce"),
        }
    ),
    "AddedWorkers": _object({"taskforce_uuid": _TEXT, "n_workers": _WHOLE}),
    "Events": _object(
        {
            "events": _array(
                _object(
                    {
                        "position": _WHOLE,
                        "event_id": _TEXT,
                        "scan_id": _TEXT,
                        "version": _WHOLE,
                        "type": _TEXT,
                        "schema_version": _WHOLE,
                        "recorded_at": _TEXT,
                        "actor": _TEXT,
                        "command_id": _TEXT,
                        "correlation_id": _TEXT,
                        "data": _or_null(_FREE),
                        "data_sha256": _TEXT | {"description": "Of data that was let go: then `data` is null."},
                    },
                    optional=("data_sha256",),
                )
            ),
            "next": _or_null(_WHOLE) | {"description": "Give it as `after` for the next page; null: there was no more."},
        }
    ),
    "Error": _object({"error": _TEXT, "reason": _TEXT, "message": _TEXT, "code": _WHOLE}),
}
