"""The AsyncAPI document: everything on the bus is in it, as the code has it."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from skydriver_cli.asyncapi_command import document
from skydriver_common.bus import topology
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model.commands import COMMAND_TYPES
from skydriver_common.model.events import EVENT_TYPES


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document."""
    return document()


def _queues(made: dict[str, Any]) -> dict[str, str]:
    """Queue name to the name of its channel."""
    bindings = {name: channel["bindings"]["amqp"] for name, channel in made["channels"].items()}
    return {binding["queue"]["name"]: name for name, binding in bindings.items() if binding["is"] == "queue"}


def _payload(made: dict[str, Any], channel: str) -> dict[str, Any]:
    [reference] = made["channels"][channel]["messages"].values()
    message = made["components"]["messages"][reference["$ref"].rpartition("/")[2]]
    payload: dict[str, Any] = message["payload"]
    if "$ref" in payload:
        payload = made["components"]["schemas"][payload["$ref"].rpartition("/")[2]]
    return payload


def test_every_queue_is_in_it_and_no_other(made: dict[str, Any]) -> None:
    queues = {topology.command_queue(key).name for key in COMMAND_TYPES}
    queues |= {topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS}
    queues |= {
        topology.event_queue(who, event.type).name for who, events in topology.EVENT_CONSUMERS.items() for event in events
    }
    assert _queues(made).keys() == queues


def test_every_event_is_in_it_with_its_fields(made: dict[str, Any]) -> None:
    for name, event in EVENT_TYPES.items():
        payload = _payload(made, name)
        envelope = set(LoggedEvent._fields)
        assert payload["properties"].keys() == envelope, name
        data = payload["properties"]["data"]
        schema = made["components"]["schemas"][data["$ref"].rpartition("/")[2]]
        assert schema.get("properties", {}).keys() == {field.name for field in dataclasses.fields(event)}, name


def test_every_message_of_a_scanner_is_in_it_with_headers_and_body(made: dict[str, Any]) -> None:
    queues = _queues(made)
    for kind, fields in (
        ("progress", {"progress", "event_metadata", "scan_metadata"}), ("result", {"skyscan_result", "is_final"}),
        ("failure", {"reason", "log_tail"}),
    ):  # fmt: skip
        channel = queues[topology.scanner_queue(kind).name]
        [reference] = made["channels"][channel]["messages"].values()
        message = made["components"]["messages"][reference["$ref"].rpartition("/")[2]]
        assert message["contentType"] == "application/json"
        assert set(message["headers"]["required"]) == {"token", "producer", "sequence", "schema_version"}
        assert _payload(made, channel)["properties"].keys() == fields
        assert "zstd" in made["channels"][channel]["description"]


def test_the_command_prints_it(made: dict[str, Any]) -> None:
    ran = subprocess.run([sys.executable, "-m", "skydriver_cli.app", "asyncapi"], capture_output=True, check=True, timeout=600)
    assert json.loads(ran.stdout) == made
