"""``skydriver asyncapi``: one document of everything on the bus, put together from what each service says it consumes."""

import json
import sys
from typing import Any, Literal, get_type_hints

_TITLE = "SkyDriver on the bus"
_DESCRIPTION = """Commands between the services, events of scans for everybody, and what scanners publish.

Commands carry the headers actor, fingerprint and deadline (Unix seconds) and are answered to reply_to. Events are relayed from the
log in order of commits, at least once: message_id is the event's id, headers are scan_id, version and position. Messages that
cannot be processed go to skydriver.dead, with the reason in the header x-reason."""


def document() -> dict[str, Any]:
    """Return AsyncAPI 3.0 as plain data. Connects to nothing. Raises CliError when a service does not describe itself."""
    from skydriver_cli.services import service_consumers

    whole = _publications()
    for part in service_consumers().values():
        for section in ("channels", "operations"):
            whole[section] |= part[section]
        for section, members in part["components"].items():
            whole["components"].setdefault(section, {}).update(members)
    for level in (whole, whole["components"]):  # FastStream's own order differs from run to run
        for name in level.keys() & {"channels", "operations", "messages", "schemas"}:
            level[name] = dict(sorted(level[name].items()))
    return whole


def show_asyncapi() -> None:
    """Print the AsyncAPI document: every queue, exchange and message, those of scanners included.

    Example: skydriver asyncapi > asyncapi.json
    """
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")


def _publications() -> dict[str, Any]:
    """Return the document of what is published for everybody: events, and the signal to stop."""
    from faststream.rabbit import RabbitBroker
    from pydantic import BaseModel, create_model

    from skydriver_common.bus import topology
    from skydriver_common.bus.asyncapi import document_of
    from skydriver_common.log.read import LoggedEvent
    from skydriver_common.model.events import EVENT_TYPES

    class StopSignal(BaseModel):
        """Why the scanner has to stop."""

        reason: Literal["deleted", "deactivated"]

    envelope: dict[str, Any] = {name: (kind, ...) for name, kind in get_type_hints(LoggedEvent).items() if name != "data"}
    broker = RabbitBroker("amqp://localhost")
    for name, event in EVENT_TYPES.items():
        description = " ".join((event.__doc__ or "").split())
        body = create_model(f"{event.__name__}Logged", __doc__=event.__doc__, **envelope, data=(event, ...))
        broker.publisher(exchange=topology.EVENT_EXCHANGE, routing_key=name, title=name, description=description, schema=body)
    broker.publisher(
        exchange=topology.STOP_EXCHANGE, routing_key="<scan_id>", title="stop", schema=StopSignal,
        description="Tells the scanner of a scan to stop, within a second. A scanner that misses it sees it in the scan's status "
        "over REST",
    )  # fmt: skip
    return document_of(broker, title=_TITLE, description=_DESCRIPTION)
