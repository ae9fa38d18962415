"""The page ``docs/developers/schema.sql``: what all migrations come to. ``python -m tests.support.schema_page`` prints it."""

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from skydriver_cli.embedded import postgres
from skydriver_cli.embedded.ports import choose
from skydriver_common.db.migrate import migrate

PAGE = Path(__file__).resolve().parents[2] / "docs/developers/schema.sql"

_HEAD = """\
-- The schema that all migrations come to, for reading. Made by `make docs` from a migrated database; nothing applies it.
-- Who may do what stands in deploy/postgres/roles.sql.

"""
_OF_THE_TOOL = re.compile(
    r"^(?:SET |SELECT pg_catalog\.set_config|\\(?:un)?restrict|-- (?:PostgreSQL database dump|Dumped )).*\n", re.MULTILINE
)
_HEADLINE = re.compile(r"^--\n-- Name: .*\n--\n", re.MULTILINE)
_GAPS = re.compile(r"\n(?:--\n|\n){2,}")


def schema_of(database_url: str) -> str:
    """The page, from this database."""
    dumped = subprocess.run(
        [
            str(postgres.binaries() / "pg_dump"), "--schema-only", "--no-owner", "--no-privileges", "--exclude-table=_yoyo*",
            f"--dbname={database_url}",
        ],
        capture_output=True, text=True, check=True, timeout=600,
    ).stdout  # fmt: skip
    return _HEAD + _GAPS.sub("\n\n", _HEADLINE.sub("", _OF_THE_TOOL.sub("", dumped))).strip("-\n ") + "\n"


async def _main() -> None:
    with tempfile.TemporaryDirectory(prefix="skydriver schema ") as folder:
        home = Path(folder)
        port = choose(["postgres"], {})["postgres"]
        server = await postgres.start(home / "postgres", port=port, run_dir=home, log=home / "postgres.log", durable=False)
        try:
            await asyncio.to_thread(migrate, server.url)
            sys.stdout.write(await asyncio.to_thread(schema_of, server.url))
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(_main())
