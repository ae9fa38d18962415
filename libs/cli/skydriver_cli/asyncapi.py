"""``skydriver asyncapi``: the document of everything on the bus, as FastStream derives it from the code that consumes it."""

import importlib
import inspect
import json
import logging
import sys
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from faststream.rabbit import RabbitBroker
from faststream.specification.asyncapi import AsyncAPI
from pydantic import BaseModel, create_model

from skydriver_common.bus import topology
from skydriver_common.model.events import EVENTS, Event

CONSUMERS = (
    "skydriver_dispatcher.consumers",
    "skydriver_ewms_bridge.consumers",
    "skydriver_progress.consumers",
    "skydriver_progress.asyncapi_stubs",
)
"""Modules whose ``register`` subscribes to something."""

_ABOUT = """Commands between the services, events of scans for everybody, and what scanners publish.

Commands carry the headers actor, fingerprint and deadline (Unix seconds) and are answered to reply_to. Events are relayed from the
log in order of commits, at least once: message_id is the event's id, headers are scan_id, version and position. What can't be
handled lies on skydriver.dead with the reason in the header x-reason."""


class LoggedEventBody(BaseModel):
    """An event with its place in the log, as ``GET /scan/{id}/events`` gives it too."""

    position: int
    event_id: UUID
    scan_id: str
    version: int
    type: str
    schema_version: int
    recorded_at: datetime
    actor: str
    command_id: str
    correlation_id: str


class StopSignal(BaseModel):
    """Why the scanner has to stop."""

    reason: Literal["deleted", "deactivated"]


def document() -> dict[str, Any]:
    """AsyncAPI 3.0 as plain data. Connects to nothing."""
    broker = RabbitBroker("amqp://localhost")
    for module in CONSUMERS:
        register = getattr(importlib.import_module(module), "register")  # noqa: B009
        register(broker, *[None for _ in list(inspect.signature(register).parameters)[1:]])
    for name, event in EVENTS.items():
        about = " ".join((event.__doc__ or "").split())
        broker.publisher(exchange=topology.EVENTS, routing_key=name, title=name, description=about, schema=_on_the_bus(event))
    broker.publisher(
        exchange=topology.STOP, routing_key="<scan_id>", title="stop", schema=StopSignal,
        description="Tells the scanner of a scan to stop, within a second; who missed it learns it from the status over REST",
    )  # fmt: skip
    specification = AsyncAPI(broker, title="SkyDriver on the bus", version="1.0", description=_ABOUT)
    made: dict[str, Any] = json.loads(specification.to_specification().to_json())
    made["servers"] = {}  # whoever runs it knows where its broker is
    for channel in made["channels"].values():
        channel.pop("servers", None)
    _add_headers_of_scanners(made)
    for part in (made, made["components"]):  # FastStream's own order differs from run to run
        for name in part.keys() & {"channels", "operations", "messages", "schemas"}:
            part[name] = dict(sorted(part[name].items()))
    return made


def show_asyncapi() -> None:
    """Print the AsyncAPI document: every queue, exchange and message, those of scanners included.

    Example: skydriver asyncapi > asyncapi.json
    """
    logging.getLogger("faststream").setLevel(logging.ERROR)
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")


def _on_the_bus(event: type[Event]) -> type[BaseModel]:
    return create_model(f"{event.__name__}Logged", __base__=LoggedEventBody, __doc__=event.__doc__, data=(event, ...))


def _add_headers_of_scanners(made: dict[str, Any]) -> None:
    """FastStream does not describe headers."""
    from skydriver_progress.asyncapi_stubs import HEADERS

    ours = tuple(topology.scanner_queue(kind).name for kind in topology.SCANNER_KINDS)
    for name, channel in made["channels"].items():
        if name.startswith(ours):
            for message in channel["messages"].values():
                reference = message["$ref"].rpartition("/")[2]
                made["components"]["messages"][reference] |= {"headers": HEADERS, "contentType": "application/json"}
