"""One dead letter: what is written on a message when it is buried, what is read from it, and how it goes back."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, DeliveryMode

from skydriver_common.bus.lenient_decoding import without_unwritable, writable_headers

REASON, QUEUE, EXCHANGE, KEY = "x-reason", "x-from-queue", "x-from-exchange", "x-from-key"
FAILED_AT, TRACEBACK = "x-failed-at", "x-traceback"
FIRST_FAILED_AT, FIRST_REASON, FAILURES = "x-first-failed-at", "x-first-reason", "x-failures"
REDRIVEN = "x-redriven"

MALFORMED, FAILED = "malformed", "failed"
"""Codes of reasons: the message is not of the expected form; handling it met a bug. Stored and sent; never renamed."""

_OF_THE_BROKER = ("x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason", "x-delivery-count")
_OF_THE_BROKER_TOO = ("x-last-death-exchange", "x-last-death-queue", "x-last-death-reason", "x-acquired-count")
_OF_ONE_FAILURE = (REASON, FAILED_AT, TRACEBACK)
_OF_ROUTING = ("CC", "BCC")
"""The broker delivers a message to these places too, with the rights of whoever publishes it: the sender's are not ours."""
_BROKERS_WORDS = {
    "expired": "expired in its queue",
    "rejected": "rejected by its consumer",
    "maxlen": "queue was full",
    "delivery_limit": "delivery limit reached (consumers kept failing or disconnecting)",
}
_MAX_REASON, _MAX_TRACE = 1000, 8000
_MAX_SENDER_HEADER_BYTES = 32 * 1024
"""Bytes of the sender's own headers that are kept: all of them must fit into one frame."""
_HISTORY = frozenset(
    (QUEUE, EXCHANGE, KEY, FIRST_FAILED_AT, FIRST_REASON, FAILURES, REDRIVEN, *_OF_THE_BROKER, *_OF_THE_BROKER_TOO)
)


def sender_headers(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headers without our own words about a letter: a sender who writes them would choose where an operator sends it to."""
    return headers if _HISTORY.isdisjoint(headers) else {name: value for name, value in headers.items() if name not in _HISTORY}


def dead_letter_headers(
    headers: Mapping[str, Any], *, code: str, reason: str, queue: str, exchange: str, key: str, trace: str = "",
    now: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the headers of a dead letter: the message's own, and why, where and when it failed. now: Unix seconds.

    The header ``x-reason`` reads ``code: reason`` whoever rejected the message. Where it came from and its first failure are kept
    when it was redriven before; of senders that are not trusted pass ``sender_headers``. What cannot be written again, or is too
    much, is left out.
    """
    why = f"{code}: {reason}"[:_MAX_REASON]
    failed_at = str(time.time() if now is None else now)
    is_redriven = REDRIVEN in headers
    dropped = (*_OF_ONE_FAILURE, *_OF_THE_BROKER, *_OF_THE_BROKER_TOO, *_OF_ROUTING)
    kept = writable_headers(
        {name: value for name, value in headers.items() if name not in dropped}, most_bytes=_MAX_SENDER_HEADER_BYTES
    )
    if not is_redriven:
        kept |= {QUEUE: queue, EXCHANGE: exchange, KEY: key}
    return {
        FIRST_FAILED_AT: failed_at, FIRST_REASON: why, **kept, REASON: why, FAILED_AT: failed_at,
        FAILURES: _number(headers.get(FAILURES)) + 1, **({TRACEBACK: trace[:_MAX_TRACE]} if trace else {}),
    }  # fmt: skip


def first_failed_at(headers: Mapping[str, Any]) -> float:
    """When a message that was sent back from the dead letters failed first, in Unix seconds; 0.0: unknown."""
    return _seconds(headers.get(FIRST_FAILED_AT))


def dead_letter_message(
    body: bytes, headers: Mapping[str, Any], *, message_id: str | None, correlation_id: str | None, content_type: str | None,
    content_encoding: str | None = None,
) -> aio_pika.Message:  # fmt: skip
    """The message for the dead letters, whatever its parts are. headers: of ``dead_letter_headers``."""
    message = aio_pika.Message(
        body, headers=dict(headers), message_id=message_id, correlation_id=correlation_id, content_type=content_type,
        content_encoding=content_encoding, delivery_mode=DeliveryMode.PERSISTENT,
    )  # fmt: skip
    without_unwritable(message)
    return message


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter. queue: of the consumer that could not do with it. Times are Unix seconds, 0.0: unknown.

    letter_id: the same each time this letter is read; a message that fails again is another letter.
    """

    letter_id: str
    message_id: str
    queue: str
    exchange: str
    key: str
    reason: str
    first_reason: str
    first_failed_at: float
    last_failed_at: float
    failures: int
    traceback: str
    body: bytes = field(repr=False)
    body_sha256: str
    headers: dict[str, Any]

    def as_plain(self) -> dict[str, Any]:
        """What a list shows, as JSON-native data; times in ISO 8601."""
        return {
            "id": self.letter_id, "message_id": self.message_id, "queue": self.queue, "exchange": self.exchange, "key": self.key,
            "reason": self.reason, "first_reason": self.first_reason, "first_failed_at": _iso(self.first_failed_at),
            "last_failed_at": _iso(self.last_failed_at), "failures": self.failures, "size_bytes": len(self.body),
        }  # fmt: skip


def letter_of(message: AbstractIncomingMessage) -> DeadLetter:
    """Read a message of the dead letters, buried by us or by the broker itself; never fails, whatever it is."""
    headers = dict(message.headers)
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    keys = death.get("routing-keys")
    died_at = death.get("time")
    # the broker's own word comes first, unless the message had been sent back by us, straight to its queue
    if death and death.get("exchange") != "":
        headers = {**sender_headers(headers), "x-death": deaths}
    ours = REASON in headers and not death
    word = str(death.get("reason", ""))
    reason = str(headers[REASON]) if ours else _BROKERS_WORDS.get(word, word or "unknown")
    queue = str(headers.get(QUEUE) or death.get("queue", ""))
    failed_at = _seconds(headers.get(FAILED_AT)) if ours else died_at.timestamp() if isinstance(died_at, datetime) else 0.0
    key = str(headers.get(KEY) or (keys[0] if isinstance(keys, list) and keys else message.routing_key or ""))
    body_sha256 = sha256(message.body).hexdigest()
    identity = "\n".join((message.message_id or "", queue, key, repr(failed_at), body_sha256))
    return DeadLetter(
        letter_id=sha256(identity.encode()).hexdigest()[:12],
        message_id=message.message_id or "",
        queue=queue,
        exchange=str(headers.get(EXCHANGE) or death.get("exchange", "")),
        key=key,
        reason=reason,
        first_reason=str(headers.get(FIRST_REASON, reason)),
        first_failed_at=_seconds(headers.get(FIRST_FAILED_AT)) or failed_at,
        last_failed_at=failed_at,
        failures=_number(headers.get(FAILURES)) or 1,
        traceback=str(headers.get(TRACEBACK, "")),
        body=message.body,
        body_sha256=body_sha256,
        headers=headers,
    )


def redriven_message(letter: DeadLetter, message: AbstractIncomingMessage) -> aio_pika.Message:
    """The message as it is sent back: without deadline and reply address, whose time is over; with its first failure."""
    dropped = ("deadline", *_OF_THE_BROKER, *_OF_THE_BROKER_TOO, *_OF_ONE_FAILURE, *_OF_ROUTING)
    kept = writable_headers(
        {name: value for name, value in message.headers.items() if name not in dropped}, most_bytes=_MAX_SENDER_HEADER_BYTES
    )
    headers = kept | {
        QUEUE: letter.queue, EXCHANGE: letter.exchange, KEY: letter.key, FIRST_REASON: letter.first_reason,
        FIRST_FAILED_AT: str(letter.first_failed_at), FAILURES: letter.failures, REDRIVEN: _number(message.headers.get(REDRIVEN)) + 1,
    }  # fmt: skip
    back = aio_pika.Message(
        message.body, headers=headers, message_id=message.message_id, correlation_id=message.correlation_id, type=message.type,
        content_type=message.content_type, content_encoding=message.content_encoding, timestamp=message.timestamp,
        priority=message.priority, delivery_mode=DeliveryMode.PERSISTENT,
    )  # fmt: skip
    without_unwritable(back)
    return back


def _iso(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _seconds(value: Any) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        return 0.0
    return seconds if 0.0 < seconds < 1e11 else 0.0
