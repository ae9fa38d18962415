"""What an error code of Postgres (SQLSTATE) means for the work that met it: the one table.

Consumers, batches, loops and launchers all go by it, through ``db/translate.py``. Only the values that a message brought can be
the message's own fault, and only then may the message be given up. Everything else is no reason to lose work: it waits.
Codes and classes: Postgres documentation, appendix A.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["SQLSTATE_MEANINGS", "Meaning", "SqlstateMeaning", "is_of_a_lost_primary", "meaning_of"]


class Meaning(StrEnum):
    """What follows for the work in hand."""

    OUTAGE = "outage"
    """Passes by itself, or once operators have acted: the work waits."""
    DATA = "data"
    """The values are to blame: the same message fails each time, on every server."""
    DEFECT = "defect"
    """Our program, the schema or the privileges are wrong: the work waits for a repair, and the log holds a traceback."""


@dataclass(frozen=True, slots=True)
class SqlstateMeaning:
    """One line of the table. pause_s: seconds before another try makes sense."""

    meaning: Meaning
    pause_s: float


_OUTAGE, _DATA = Meaning.OUTAGE, Meaning.DATA

SQLSTATE_MEANINGS: dict[str, SqlstateMeaning] = {
    "08": SqlstateMeaning(_OUTAGE, 1.0),  # connection
    "22": SqlstateMeaning(_DATA, 0.0),  # data
    "23": SqlstateMeaning(_DATA, 0.0),  # constraints
    "25006": SqlstateMeaning(_OUTAGE, 1.0),  # read-only: a stand-by, or a primary that is one no longer
    "25P03": SqlstateMeaning(_OUTAGE, 1.0),  # the transaction was idle for too long: this process stood still
    "25P04": SqlstateMeaning(_OUTAGE, 1.0),  # the transaction took too long
    "28": SqlstateMeaning(_OUTAGE, 2.0),  # login: the password was changed
    "3D000": SqlstateMeaning(_OUTAGE, 2.0),  # there is no such database: it is being restored
    "40": SqlstateMeaning(_OUTAGE, 0.05),  # rollback: serialization, deadlock
    "53": SqlstateMeaning(_OUTAGE, 2.0),  # resources: disk, memory, connections
    "54": SqlstateMeaning(_DATA, 0.0),  # limits of the program: too large, too complex
    "55006": SqlstateMeaning(_OUTAGE, 1.0),  # in use
    "55P03": SqlstateMeaning(_OUTAGE, 1.0),  # a lock was not to be had
    "57": SqlstateMeaning(_OUTAGE, 1.0),  # operator intervention: shutdown, crash, starting up, cancelled
    "58": SqlstateMeaning(_OUTAGE, 2.0),  # the system below Postgres: input/output
    "72": SqlstateMeaning(_OUTAGE, 1.0),  # the snapshot is too old
    "F0": SqlstateMeaning(_OUTAGE, 2.0),  # its configuration file
    "XX": SqlstateMeaning(_OUTAGE, 2.0),  # internal error, corrupted data
}
"""By code or, for codes that have no line of their own, by class (the first two characters)."""

_DEFECT = SqlstateMeaning(Meaning.DEFECT, 5.0)


def meaning_of(sqlstate: str | None) -> SqlstateMeaning:
    """Look an error code up; what is not in the table is a defect."""
    code = sqlstate or ""
    return SQLSTATE_MEANINGS.get(code) or SQLSTATE_MEANINGS.get(code[:2], _DEFECT)


def is_of_a_lost_primary(sqlstate: str | None) -> bool:
    """Whether this server may not be the right one any more: a new connection can find another."""
    code = sqlstate or ""
    return code == "25006" or code.startswith("57P0")
