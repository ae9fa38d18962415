"""The AsyncAPI document of what a broker object consumes and publishes. Connects to nothing."""

import inspect
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from faststream.rabbit import RabbitBroker
from faststream.specification.asyncapi import AsyncAPI


def document_of(broker: RabbitBroker, *, title: str, description: str = "") -> dict[str, Any]:
    """Return AsyncAPI 3.0 as plain data, without servers: whoever runs the system knows where the broker is."""
    specification = AsyncAPI(broker, title=title, version="1.0", description=description)
    document: dict[str, Any] = json.loads(specification.to_specification().to_json())
    document["servers"] = {}
    for channel in document["channels"].values():
        channel.pop("servers", None)
    return document


def describe_consumers(*registers: Callable[..., None]) -> dict[str, Any]:
    """Return the document of these functions' subscriptions. Each takes a broker and what its handlers need, which is not called."""
    logging.getLogger("faststream").setLevel(logging.ERROR)
    broker = RabbitBroker("amqp://localhost")
    for register in registers:
        register(broker, *[None for _ in list(inspect.signature(register).parameters)[1:]])
    return document_of(broker, title="consumers")


def print_document(document: dict[str, Any]) -> None:
    """Print the document as one line of JSON."""
    sys.stdout.write(json.dumps(document) + "\n")
