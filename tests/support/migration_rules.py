"""What a migration may not do while the release before works beside it and nobody may wait: ``docs/developers/database-and-migrations.md``.

A reading of its text, statement by statement; bodies of functions are left out, since a migration does not run them.
"""

import re
from collections.abc import Collection, Iterator

from skydriver_common.db.migrate import Migration

BIG = (
    "event_log", "manifests", "due_work", "blobs", "command_replies", "results", "i3_events", "scan_requests", "backlog", "workforces",
)  # fmt: skip
"""Tables that are large, or that every decision works on."""

_NAME = re.compile(r"\d{4}_(common|api|dispatcher|ewms_bridge|progress)_[a-z0-9_]+")
_PARTS = re.compile(r"--[^\n]*|(\$\w*\$).*?\1|'(?:[^']|'')*'|;|[^-$';]+|.", re.DOTALL)
_BIG = rf"(?:ONLY )?(?:public\.)?({'|'.join(BIG)})\b"

_REWRITES: dict[str, str] = {
    r"ADD COLUMN\b(?:(?!, ADD COLUMN).)*\bSTORED\b": "a stored generated column rewrites the table",
    r"ADD COLUMN\b(?:(?!, ADD COLUMN).)*\b(?:AS IDENTITY|\w*SERIAL)\b": "an identity rewrites the table",
    r"ADD COLUMN\b(?:(?!, ADD COLUMN).)*\bDEFAULT (?!NOW\(\))[\w.]+\(": "a default that is a call may rewrite the table",
    r"ADD COLUMN\b(?:(?!, ADD COLUMN|DEFAULT).)*\bNOT NULL\b(?!(?:(?!, ADD COLUMN).)*DEFAULT)": (
        "the release before does not fill this column"
    ),
    r"ALTER (?:COLUMN )?\w+ (?:SET DATA )?TYPE\b": "another type may rewrite the table",
    r"SET (?:UN)?LOGGED\b": "this rewrites the table",
    r"SET (?:TABLESPACE|ACCESS METHOD)\b": "this rewrites the table",
    r"ALTER (?:COLUMN )?\w+ SET NOT NULL\b": "this reads the whole table under the lock: a NOT VALID check first",
    r"ADD (?:CONSTRAINT \w+ )?(?:CHECK|FOREIGN KEY)\b(?!.*NOT VALID)": "this reads the whole table under the lock: NOT VALID first",
    r"ADD (?:CONSTRAINT \w+ )?(?:PRIMARY KEY|UNIQUE)\b(?!.*USING INDEX)": "this builds an index under the lock: USING INDEX",
}
_ALWAYS: dict[str, str] = {
    r"^(?:BEGIN|START TRANSACTION|COMMIT|ROLLBACK|END)\b": "the transaction is the migration's",
    r"^SET (?!LOCAL\b)": "a setting of the session stays for the next migration: SET LOCAL",
    r"^(?:VACUUM|CLUSTER|REINDEX|LOCK)\b": "this holds a table for long",
}
_TAKES_AWAY: dict[str, str] = {
    r"^DROP (?:TABLE|VIEW|SEQUENCE|TYPE|SCHEMA) (?:IF EXISTS )?(?P<what>\w+)": "a program of the release before may use it",
    r"^DROP FUNCTION (?:IF EXISTS )?(?P<what>\w+)": "a program of the release before may call it",
    r"^ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?P<what>\w+) .*\bDROP COLUMN\b": "a program of the release before may use it",
    r"^ALTER \w+ (?:IF EXISTS )?(?P<what>\w+)(?:\(.*\))? RENAME\b": "a program of the release before knows it by its old name",
    r"^ALTER TABLE (?:ONLY )?(?P<what>\w+) .*\b(?:DROP DEFAULT|DROP CONSTRAINT)\b": "a program of the release before may rely on it",
}
_CREATES = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:UNLOGGED )?(?:TABLE|VIEW|FUNCTION|SEQUENCE|TYPE|SCHEMA) (?:IF NOT EXISTS )?(\w+)"
)


def statements(text: str) -> Iterator[str]:
    """The statements in one line each, without comments and bodies of functions, keywords as they stand."""
    now = ""
    for part in _PARTS.finditer(text):
        piece = part[0]
        if piece == ";":
            yield from _one_line(now)
            now = ""
        elif piece.startswith("--"):
            continue
        elif part[1] is not None:
            body = piece[len(part[1]) : -len(part[1])]
            if re.match(r"\s*DO\b", now, re.IGNORECASE):  # this one runs
                yield from statements(re.sub(r"\b(?:BEGIN|END|DECLARE|THEN|LOOP|IF)\b", ";", body))
                now = ""
            else:
                now += "$$"
        else:
            now += piece
    yield from _one_line(now)


def _one_line(statement: str) -> Iterator[str]:
    flat = " ".join(statement.split())
    if flat:
        yield flat


def problems(migration: Migration, *, of_this_release: Collection[str], needable: Collection[str]) -> list[str]:
    """What is wrong with a migration, one line each.

    of_this_release: tables and functions that this release's migrations make: no older program knows them. needable: migrations
    that the release before knows.
    """
    found = list[str]()
    if not _NAME.fullmatch(migration.name):
        found.append("its name is not NNNN_<owner>_<what>")
    if migration.needs is not None and migration.needs not in needable:
        found.append(f"the release before does not know {migration.needs}: take away one release later")
    every = list(statements(migration.text))
    if migration.is_concurrent and not (
        len(every) == 1 or (len(every) == 2 and every[0].startswith("DROP INDEX CONCURRENTLY"))
    ):
        found.append("CONCURRENTLY stands alone in its file")
    own = set(created(migration))
    for statement in every:
        found += [f"{why}: {statement[:100]}" for why in _wrong(statement, own, of_this_release, migration.needs is not None)]
    return found


def created(migration: Migration) -> list[str]:
    """Names of the tables, views and functions that a migration makes."""
    return [made[1] for statement in statements(migration.text) if (made := _CREATES.match(statement))]


def _wrong(statement: str, own: Collection[str], of_this_release: Collection[str], takes_away: bool) -> Iterator[str]:
    text = statement.upper()
    for rule, why in _ALWAYS.items():
        if re.search(rule, text):
            yield why
    altered = re.match(rf"ALTER TABLE (?:IF EXISTS )?{_BIG}", statement, re.IGNORECASE)
    if altered and altered[1] not in own:
        for rule, why in _REWRITES.items():
            if re.search(rule, text):
                yield why
    indexed = re.match(rf"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON {_BIG}", statement, re.IGNORECASE)
    if indexed and indexed[1] not in own:
        yield "an index on a large table is made CONCURRENTLY, in a file of its own"
    if re.match(rf"(?:UPDATE|DELETE FROM) {_BIG}", statement, re.IGNORECASE):
        yield "this changes many rows in one transaction: let a loop do it, a piece at a time"
    if not takes_away:
        for rule, why in _TAKES_AWAY.items():
            gone = re.search(rule, statement, re.IGNORECASE)
            if gone and gone["what"] not in of_this_release:
                yield f"{why} (a release later, with `-- needs:`)"
