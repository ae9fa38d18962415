"""Scanners' messages as FastStream subscribers: for the AsyncAPI document only; nothing here is ever started."""

from typing import Any

from faststream.rabbit import RabbitBroker
from pydantic import BaseModel, ConfigDict, Field

from skydriver_common.bus import topology
from skydriver_common.bus.asyncapi import describe_consumers
from skydriver_common.payloads.reports import ResultBody, TolerantPatchBody
from skydriver_progress import consumers
from skydriver_scanner import protocol


class FailureBody(BaseModel):
    """``failure.<scan_id>``: the scanner reports why it failed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    reason: str = Field(min_length=1)
    log_tail: str = ""


HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["token", "producer", "sequence", "schema_version"],
    "properties": {
        "token": {"type": "string", "description": "The scan's token, without Bearer"},
        "producer": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "One life of one scanner process"},
        "sequence": {
            "type": "integer", "minimum": 0, "maximum": protocol.MAX_SEQUENCE,
            "description": "Grows with every message of a producer; the newest report wins",
        },
        "schema_version": {
            "type": "string", "pattern": r"^[0-9]{1,4}\.[0-9]{1,4}$", "examples": [protocol.SCHEMA_VERSION],
            "description": "A newer minor version is accepted, another major one is refused",
        },
    },
}  # fmt: skip
"""Headers of every message of a scanner."""

ENCODINGS = protocol.ENCODINGS


def document() -> dict[str, Any]:
    """Return the AsyncAPI document of everything this service consumes, with the headers of scanners' messages."""
    document = describe_consumers(consumers.register, register)
    queues = tuple(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)
    for name, channel in document["channels"].items():
        if name.startswith(queues):
            for message in channel["messages"].values():
                reference = message["$ref"].rpartition("/")[2]
                # FastStream does not describe headers
                document["components"]["messages"][reference] |= {"headers": HEADERS, "contentType": "application/json"}
    return document


def register(broker: RabbitBroker) -> None:
    """Register subscribers with the queues, exchange and bodies of the batch consumers."""

    @broker.subscriber(
        topology.scanner_queue(protocol.PROGRESS),
        topology.SCANNER_EXCHANGE,
        description=_limits(protocol.PROGRESS),
        no_reply=True,
    )
    async def progress(report: TolerantPatchBody) -> None: ...

    @broker.subscriber(
        topology.scanner_queue(protocol.RESULT), topology.SCANNER_EXCHANGE, description=_limits(protocol.RESULT), no_reply=True
    )
    async def result(report: ResultBody) -> None: ...

    @broker.subscriber(
        topology.scanner_queue(protocol.FAILURE),
        topology.SCANNER_EXCHANGE,
        description=_limits(protocol.FAILURE),
        no_reply=True,
    )
    async def failure(report: FailureBody) -> None: ...


def _limits(kind: str) -> str:
    sent, content = protocol.limits(kind)
    nan = " NaN and infinity may stand in skyscan_result as bare tokens." if kind == protocol.RESULT else ""
    return (
        f"Routing key {kind}.<scan_id>. JSON, content_encoding {', '.join(ENCODINGS)}; at most {sent} bytes as sent and {content} "
        f"decompressed.{nan} Fields that are unknown are ignored."
    )
