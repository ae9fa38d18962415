"""What is deleted after a time: recorded replies, and blobs that no event refers to. A bounded piece at a time."""

from dataclasses import dataclass
from datetime import datetime

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection, Pool, load_statements

sql = load_statements("skydriver_common.log", "housekeeping.sql")

MAX_REPLIES = 2000
MAX_BLOBS = 200


@dataclass(frozen=True, slots=True)
class DeletedRows:
    """What one piece of work did. after: where the next one goes on among the blobs, "" when all were looked at."""

    replies: int
    blobs: int
    bytes: int
    after: str

    @property
    def has_more(self) -> bool:
        """Whether something is left to do now."""
        return bool(self.after) or self.replies == MAX_REPLIES


async def delete_expired(connection: Pool | Connection, *, before: datetime, after: str = "") -> DeletedRows:
    """Forget replies recorded before a time, and drop blobs put before it that no event refers to. Raises TryLater.

    A repeated Idempotency-Key is answered from its recorded reply only as long as that is kept.
    """
    with database_faults():
        replies: int = await sql.forget_replies(connection, before=before, most=MAX_REPLIES)
        blobs = await sql.drop_orphan_blobs(connection, before=before, after=after, most=MAX_BLOBS)
    return DeletedRows(replies, blobs["gone"], blobs["bytes"], blobs["next_digest"] or "")


async def delete_replies_without_key(connection: Pool | Connection) -> bool:
    """Forget replies that nobody can ask for again: to commands without an Idempotency-Key, some minutes old.

    A bounded piece; True: there may be more. Raises TryLater.
    """
    with database_faults():
        gone: int = await sql.forget_replies_without_key(connection, most=MAX_REPLIES)
    return gone == MAX_REPLIES
