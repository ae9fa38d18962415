"""Which process of a scanner sends a report, and the number of the report: the same headers as on the bus."""

from collections.abc import Callable
from typing import TypedDict, TypeVar

from aiohttp import web

from skydriver_api.http.http_errors import HttpError
from skydriver_scanner import protocol

T = TypeVar("T")


class ProducerHeaders(TypedDict):
    """producer: "" when the headers are missing."""

    producer: str
    sequence: int


def producer_headers_of(request: web.Request) -> ProducerHeaders:
    """Read them from the request; one without the other counts as none. Raises HttpError 400."""
    producer, sequence = request.headers.get(protocol.PRODUCER_HEADER), request.headers.get(protocol.SEQUENCE_HEADER)
    if producer is None or sequence is None:
        return ProducerHeaders(producer="", sequence=0)
    return ProducerHeaders(
        producer=_checked(protocol.PRODUCER_HEADER, protocol.checked_producer, producer),
        sequence=_checked(
            protocol.SEQUENCE_HEADER, lambda text: protocol.checked_sequence(protocol.parse_sequence(text)), sequence
        ),
    )


def _checked(header: str, check: Callable[[str], T], text: str) -> T:
    """Check the text of a header; the library's own messages name the header as it is called on the bus."""
    try:
        return check(text)
    except protocol.MessageRejected as error:
        raise HttpError(400, f"{header}: {error.reason.rpartition(': ')[2]}") from error
