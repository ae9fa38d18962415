"""Answers against the document that describes them."""

import uuid
from datetime import UTC, datetime

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest

from skydriver_api.schemas import COMPONENTS
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model import wire

DATA = b'{"progress":{},"producer":"","sequence":0}'


@pytest.mark.parametrize("data", [DATA, wire.let_go(DATA)], ids=["whole", "let go"])
def test_an_event_is_as_described_even_when_its_content_was_let_go(data: bytes) -> None:
    event = LoggedEvent(
        1, uuid.uuid4(), "s", 1, "scan.progress-reported", 1, datetime.now(UTC), "somebody", "command", "correlation", data
    )
    told = orjson.loads(event.as_json())
    page = {"events": [told], "next": None}
    jsonschema.validate(page, COMPONENTS["Events"])
    assert ("data_sha256" in told) == (data != DATA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"events": [told | {"data": 1}], "next": None}, COMPONENTS["Events"])
