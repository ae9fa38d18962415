"""Answers against the document that describes them."""

import uuid
from datetime import UTC, datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from skydriver_api.app import ROUTES
from skydriver_api.http.openapi import document
from skydriver_api.payloads.requests import parse_scan_request
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId
from skydriver_common.payloads.field_errors import InvalidBody

DATA = b'{"progress":{},"producer":"","sequence":0}'


@pytest.mark.parametrize("data", [DATA, event_codec.compact_payload(DATA)], ids=["whole", "compacted"])
def test_an_event_is_as_described_even_when_its_content_was_compacted(data: bytes, described: dict[str, Any]) -> None:
    event = LoggedEvent(
        1,
        uuid.uuid4(),
        ScanId("s"),
        1,
        "scan.progress-reported",
        1,
        datetime.now(UTC),
        "somebody",
        "command",
        "correlation",
        data,
    )
    told = orjson.loads(event.as_json())
    page = {"events": [told], "next": None}
    schema = described | {"$ref": "#/components/schemas/Events"}
    jsonschema.validate(page, schema)
    assert ("data_sha256" in told) == (data != DATA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"events": [told | {"data": 1}], "next": None}, schema)


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The document as clients get it."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(document(ROUTES, clusters=["osg", "sub-2"])))
    return found


def test_the_document_is_valid_openapi(described: dict[str, Any]) -> None:
    assert [(list(error.absolute_path), error.message) for error in OpenAPIV31SpecValidator(described).iter_errors()] == []


def test_generators_of_clients_find_one_type_in_each_body(described: dict[str, Any]) -> None:
    """They make a union of untyped things of an object with ``anyOf`` beside its properties, and two types of one title clash."""
    for name, schema in described["components"]["schemas"].items():
        assert not ({"anyOf", "oneOf", "allOf"} & set(schema) and "properties" in schema), name
        titles = [field["title"] for field in schema.get("properties", {}).values() if "title" in field]
        assert len(titles) == len(set(titles)), name
        for field in schema.get("properties", {}).values():
            for form in [field, *field.get("anyOf", [])]:
                assert {"type", "$ref", "anyOf"} & set(form), (name, field)
                assert "default" not in form or form["default"] is not None


def test_no_default_is_described_for_a_field_of_two_names(described: dict[str, Any]) -> None:
    """A generated client would send it, and what its user gives under the other name would not count."""
    fields = described["components"]["schemas"]["WholeScanRequest"]["properties"]
    assert [name for name, field in fields.items() if field.get("deprecated") and "default" in field] == []
    assert "default" not in fields["worker_memory_bytes"]
    assert fields["worker_memory_bytes"]["description"].endswith("0: the default (8000000000)")


EVENT, CLUSTERS = {"event_i3live_json": {"a": 1}}, {"request_clusters": {"osg": 1}}


@pytest.mark.parametrize(
    "changes",
    [
        EVENT | CLUSTERS,
        EVENT | {"cluster": [["osg", 1]]},
        CLUSTERS | {"i3_event_id": "e"},
        CLUSTERS | {"i3_event_id": "e", "event_i3live_json": {}},
        CLUSTERS | {"i3_event_id": "", "event_i3live_json": '{"a": 1}'},
        EVENT | CLUSTERS | {"memory": 0},
        EVENT,
        CLUSTERS,
        CLUSTERS | {"event_i3live_json": {}},
        CLUSTERS | {"i3_event_id": ""},
        EVENT | CLUSTERS | {"i3_event_id": "e"},
        EVENT | CLUSTERS | {"memory": "8GB"},
        EVENT | CLUSTERS | {"manifest_projection": None},
    ],
)
def test_the_description_of_a_request_allows_what_is_accepted(described: dict[str, Any], changes: dict[str, Any]) -> None:
    body = {
        "docker_tag": "latest", "reco_algo": "dummy", "nsides": {"8": 0}, "real_or_simulated_event": "real",
        "max_pixel_reco_time": 10, **changes,
    }  # fmt: skip
    schema = {"$ref": "#/components/schemas/WholeScanRequest", "components": described["components"]}
    try:
        parse_scan_request(orjson.dumps(body), clusters={"osg": None})
        is_accepted = True
    except InvalidBody:
        is_accepted = False
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == is_accepted
