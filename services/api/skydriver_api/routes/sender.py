"""Which process of a scanner sends a report, and which of its reports this is: as on the bus, where it says so."""

from typing import TypedDict

from aiohttp import web

from skydriver_api.failures import HttpProblem
from skydriver_scanner import wire


class Sender(TypedDict):
    """producer: "" when nothing is said of it."""

    producer: str
    sequence: int


def sender_of(request: web.Request) -> Sender:
    """From the request's headers; one without the other says nothing. Raises HttpProblem 400."""
    producer, sequence = request.headers.get(wire.PRODUCER_HEADER), request.headers.get(wire.SEQUENCE_HEADER)
    if producer is None or sequence is None:
        return Sender(producer="", sequence=0)
    try:
        return Sender(producer=wire.checked_producer(producer), sequence=wire.checked_sequence(wire.number_of(sequence)))
    except wire.MessageRefused as error:
        raise HttpProblem(400, f"{wire.PRODUCER_HEADER}, {wire.SEQUENCE_HEADER}: {error.reason}") from error
