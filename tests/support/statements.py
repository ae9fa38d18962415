"""Which statements a client sends to Postgres, counted on the way: by the messages of the frontend protocol."""

from collections import Counter
from collections.abc import Callable

_PROTOCOL_3 = b"\x00\x03\x00\x00"


class StatementCounter:
    """executed: how often each text was executed, over all connections that were told of."""

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()

    def count(self, part: str) -> int:
        """How often a statement was executed that contains this text."""
        return sum(times for text, times in self.executed.items() if part in text)

    def connection(self) -> Callable[[bytes], None]:
        """For a new connection: what is to be called with each piece that its client sends."""
        held, prepared, has_started = bytearray(), dict[bytes, str](), False

        def take(piece: bytes) -> None:
            nonlocal has_started
            held.extend(piece)
            while True:
                head = 1 if has_started else 0  # what comes before the start-up message has no type
                if len(held) < head + 4 or len(held) < head + (length := int.from_bytes(held[head : head + 4])):
                    return
                kind, body = bytes(held[:head]), bytes(held[head + 4 : head + length])
                del held[: head + length]
                if not has_started:
                    has_started = body.startswith(_PROTOCOL_3)
                elif kind == b"P":
                    name, text, _ = body.split(b"\0", 2)
                    prepared[name] = text.decode()
                elif kind == b"B":
                    self.executed[prepared.get(body.split(b"\0", 2)[1], "a statement prepared elsewhere")] += 1
                elif kind == b"Q":
                    self.executed[body[:-1].decode()] += 1

        return take
