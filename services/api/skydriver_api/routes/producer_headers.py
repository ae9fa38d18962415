"""Which process of a scanner sends a report, and which of its reports this is: as on the bus, where it says so."""

from typing import TypedDict

from aiohttp import web

from skydriver_api.http.failures import HttpProblem
from skydriver_scanner import protocol


class ProducerHeaders(TypedDict):
    """producer: "" when nothing is said of it."""

    producer: str
    sequence: int


def sender_of(request: web.Request) -> ProducerHeaders:
    """From the request's headers; one without the other says nothing. Raises HttpProblem 400."""
    producer, sequence = request.headers.get(protocol.PRODUCER_HEADER), request.headers.get(protocol.SEQUENCE_HEADER)
    if producer is None or sequence is None:
        return ProducerHeaders(producer="", sequence=0)
    try:
        return ProducerHeaders(
            producer=protocol.checked_producer(producer), sequence=protocol.checked_sequence(protocol.parse_sequence(sequence))
        )
    except protocol.MessageRefused as error:
        raise HttpProblem(400, f"{protocol.PRODUCER_HEADER}, {protocol.SEQUENCE_HEADER}: {error.reason}") from error
