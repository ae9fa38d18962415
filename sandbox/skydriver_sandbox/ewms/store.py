"""What the stand-in remembers: one SQLite file, so that a `kill -9` loses nothing that was answered.

Documents are stored as the JSON that is served; what has to be searched by the stand-in itself stands in columns beside.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = sqlite3.Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS workflows (
    seq INTEGER PRIMARY KEY, workflow_id TEXT UNIQUE NOT NULL, is_activated INTEGER NOT NULL DEFAULT 0, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS task_directives (
    seq INTEGER PRIMARY KEY, task_id TEXT UNIQUE NOT NULL, workflow_id TEXT NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS taskforces (
    seq INTEGER PRIMARY KEY, taskforce_uuid TEXT UNIQUE NOT NULL, task_id TEXT NOT NULL, workflow_id TEXT NOT NULL,
    phase TEXT NOT NULL, priority INTEGER NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS taskforces_workflow ON taskforces (workflow_id);
CREATE INDEX IF NOT EXISTS taskforces_phase ON taskforces (phase, priority);
CREATE TABLE IF NOT EXISTS mqprofiles (
    seq INTEGER PRIMARY KEY, mqid TEXT UNIQUE NOT NULL, workflow_id TEXT NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS mqprofiles_workflow ON mqprofiles (workflow_id);
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY, job_id TEXT UNIQUE NOT NULL, taskforce_uuid TEXT NOT NULL, status TEXT NOT NULL,
    pilot_status TEXT NOT NULL DEFAULT 'null', error TEXT);
CREATE INDEX IF NOT EXISTS jobs_taskforce ON jobs (taskforce_uuid, status);
"""


class Store:
    """All work runs as transactions on one thread, one after the other: the event loop never waits for the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    async def open(self) -> None:
        """Raises sqlite3.Error, OSError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        # Enough against the end of this process; only a machine that loses power could lose the last answers.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def run(self, work: Callable[["Tx"], T]) -> T:
        """Do `work` in one transaction: all of it is kept, or none if it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[["Tx"], T]) -> T:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(Tx(self._connection))
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return result


class Tx:
    """Documents by table and id, inside one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(statement, rows)

    def _one(self, statement: str, value: str) -> dict[str, Any] | None:
        row = self.execute(statement, value).fetchone()
        return None if row is None else json.loads(row["doc"])

    def workflow(self, workflow_id: str) -> dict[str, Any] | None:
        return self._one("SELECT doc FROM workflows WHERE workflow_id = ?", workflow_id)

    def directive(self, task_id: str) -> dict[str, Any] | None:
        return self._one("SELECT doc FROM task_directives WHERE task_id = ?", task_id)

    def taskforce(self, uuid: str) -> dict[str, Any] | None:
        return self._one("SELECT doc FROM taskforces WHERE taskforce_uuid = ?", uuid)

    def taskforces(self, *, workflow_id: str | None = None, phases: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """By workflow, phase or both; the most urgent first, then the oldest."""
        marks = ",".join("?" * len(phases))
        conditions = (["workflow_id = ?"] if workflow_id else []) + ([f"phase IN ({marks})"] if phases else [])
        where = " AND ".join(conditions) or "1"
        values = ([workflow_id] if workflow_id else []) + list(phases)
        statement = f"SELECT doc FROM taskforces WHERE {where} ORDER BY priority DESC, seq"  # noqa: S608 -- fixed words only
        return [json.loads(row["doc"]) for row in self.execute(statement, *values)]

    def profiles(self, workflow_id: str) -> list[dict[str, Any]]:
        rows = self.execute("SELECT doc FROM mqprofiles WHERE workflow_id = ? ORDER BY seq", workflow_id)
        return [json.loads(row["doc"]) for row in rows]

    def add_workflow(self, doc: dict[str, Any]) -> None:
        self.execute("INSERT INTO workflows (workflow_id, doc) VALUES (?, ?)", doc["workflow_id"], json.dumps(doc))

    def save_workflow(self, doc: dict[str, Any]) -> None:
        self.execute("UPDATE workflows SET doc = ? WHERE workflow_id = ?", json.dumps(doc), doc["workflow_id"])

    def add_directive(self, doc: dict[str, Any]) -> None:
        statement = "INSERT INTO task_directives (task_id, workflow_id, doc) VALUES (?, ?, ?)"
        self.execute(statement, doc["task_id"], doc["workflow_id"], json.dumps(doc))

    def add_taskforce(self, doc: dict[str, Any]) -> None:
        statement = (
            "INSERT INTO taskforces (taskforce_uuid, task_id, workflow_id, phase, priority, doc) VALUES (?, ?, ?, ?, ?, ?)"
        )
        ids = (doc["taskforce_uuid"], doc["task_id"], doc["workflow_id"])
        self.execute(statement, *ids, doc["phase"], doc["priority"], json.dumps(doc))

    def save_taskforce(self, doc: dict[str, Any]) -> None:
        statement = "UPDATE taskforces SET doc = ?, phase = ? WHERE taskforce_uuid = ?"
        self.execute(statement, json.dumps(doc), doc["phase"], doc["taskforce_uuid"])

    def put_profile(self, doc: dict[str, Any]) -> None:
        statement = "INSERT INTO mqprofiles (mqid, workflow_id, doc) VALUES (?, ?, ?) ON CONFLICT (mqid) DO UPDATE SET doc = excluded.doc"
        self.execute(statement, doc["mqid"], doc["workflow_id"], json.dumps(doc))

    def documents(self, table: str, after: int, workflow_ids: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, document) of a listing, in order of creation, past the given number; of some workflows, or of all."""
        some = "" if workflow_ids is None else f" AND workflow_id IN ({','.join('?' * len(workflow_ids))})"
        statement = f"SELECT seq, doc FROM {table} WHERE seq > ?{some} ORDER BY seq"  # noqa: S608 -- one of our table names
        for row in self.execute(statement, after, *(workflow_ids or [])):
            yield row["seq"], json.loads(row["doc"])
