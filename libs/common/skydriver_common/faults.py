"""Faults: what goes wrong outside a decision, sorted by whether trying again can help.

A refusal is not a fault: `Rejection` is a value that a decision returns. What is left falls into three families, and each
family is mapped once to HTTP, once to the bus and once to the loops:

=================  ==============  =====================  ============================  ===================================
family             raised by       HTTP                   bus                           loop
=================  ==============  =====================  ============================  ===================================
`BadMessage`       codec, schema   400                    dead letter with the reason   does not occur
`TryLater`         adapters        503 + `Retry-After`    wait here, then give back     back off, no attempt used up
anything else      a bug           500 with an id only    dead letter with traceback    logged with traceback, back off
=================  ==============  =====================  ============================  ===================================

What an error of the database is, db/sqlstates.py says: data's fault (a bug, above), or TryLater.
Adapters translate at their edge: no driver or HTTP library exception travels further in than the adapter that met it.
The texts are shown to operators and clients, so they carry no secret and no foreign response body.
"""

__all__ = ["BadMessage", "Fault", "TryLater", "reason_of"]


class Fault(Exception):
    """The base of the expected faults; never raised itself."""


class TryLater(Fault):
    """Something outside is away or busy for now; the same work can succeed later.

    Args:
        what: what is not available, in words for an operator ("the database is not reachable").
        after_s: seconds after which another try makes sense; finite and not negative.
    """

    def __init__(self, what: str, after_s: float = 1.0) -> None:
        if not 0.0 <= after_s < float("inf"):
            raise ValueError(f"after_s must be a finite number of seconds, not negative: {after_s}")
        super().__init__(what, after_s)
        self.what = what
        self.after_s = after_s

    def __str__(self) -> str:
        return f"{self.what} (try again in {self.after_s:g} s)"


class BadMessage(Fault):
    """A message or document that will never be understood, however often it is delivered.

    Args:
        reason: what is wrong with it, naming the field where possible; never the body itself.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_REASON_LIMIT = 300


def reason_of(fault: BaseException) -> str:
    """The error at the root of a fault, as one line for operators: its kind and the beginning of its text; "" without one.

    The text is of a driver and may hold anything: it goes through the redaction of logs, and never to a client.
    """
    root = fault
    while root.__cause__ is not None:
        root = root.__cause__
    if root is fault:
        return ""
    return f"{type(root).__name__}: {' '.join(str(root).split())}"[:_REASON_LIMIT].removesuffix(": ")
