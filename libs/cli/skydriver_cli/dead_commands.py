"""``skydriver dead …``: inspect, redrive or discard dead letters, while the system runs."""

import asyncio
import base64
import getpass
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer

from skydriver_cli.connections import find_url, open_pool_for, parse_time
from skydriver_cli.embedded.secret_files import write_private
from skydriver_cli.errors import CliError
from skydriver_cli.log_proof_commands import progress
from skydriver_cli.options import DEFAULT_DATA_DIR, AmqpUrl, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import Terminal, json_block, print_json, print_note
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.log import system_chain
from skydriver_common.model.commands import Context
from skydriver_common.model.events import DeadLetterDiscarded, DeadLetterRedriven, SystemEvent
from skydriver_common.redaction import redact_document, redact_text
from skydriver_ops.bus.dead_letters import DeadLetters, InUse, OpenDeadLetter, OriginMissing, open_dead_letters

dead = typer.Typer()
out = Terminal()

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of dead letters, as `skydriver dead list` prints them.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Only dead letters from this queue.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only dead letters whose reason contains this text.")]
Key = Annotated[str | None, typer.Option("--key", help="Only dead letters with this routing key, such as scan.request.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only messages that last failed at or after this time (ISO 8601)."),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Only messages that last failed before this time (ISO 8601)."),
]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters are meant. A field that is None or empty excludes none."""

    ids: frozenset[str] = frozenset()
    queue: str | None = None
    reason: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it matches every dead letter."""
        return self == DeadLetterFilter()

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether the dead letter matches."""
        return (
            (not self.ids or letter.letter_id in self.ids)
            and (self.queue is None or letter.queue == self.queue)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.key is None or letter.key == self.key)
            and (self.since is None or letter.last_failed_at >= self.since.timestamp())
            and (self.until is None or letter.last_failed_at < self.until.timestamp())
        )


@dataclass(slots=True)
class Tally:
    """How many dead letters were chosen, and how many of them were settled."""

    chosen: int = 0
    settled: int = 0


@dead.command("list")
def list_(
    queue: Queue = None,
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="Maximum number of letters to show.")] = 1000,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, oldest failure first: reason, queue, first and last failure. They stay in their queue.

    Example: skydriver dead list --queue skydriver.scan.request
    """
    letter_filter = _filter(None, queue, reason, key, since, until)
    shown = 0

    async def look(held: OpenDeadLetter) -> None:
        nonlocal shown
        shown += 1
        if shown <= most:
            _show_line(held.letter, as_json)

    async def work() -> Tally:
        async with _letters(amqp_url, data_dir) as letters:
            return await _each(letters, letter_filter, look, "reading", as_json)

    tally = asyncio.run(work())
    if not as_json:
        more = f", {tally.chosen - most} not shown" if tally.chosen > most else ""
        out.print(f"{tally.chosen} dead letter{'' if tally.chosen == 1 else 's'}{more}")


@dead.command()
def show(
    letter_id: Annotated[
        str, typer.Argument(metavar="LETTER_ID", help="Id of a dead letter, as `skydriver dead list` prints it.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the message's body to this file.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter in full: headers, traceback, body. Credentials in them are redacted; --output writes the body as it is.

    Example: skydriver dead show 3f1c09aa27de
    """
    found: list[DeadLetter] = []

    async def look(held: OpenDeadLetter) -> None:
        found[:] = [held.letter]

    async def work() -> Tally:
        async with _letters(amqp_url, data_dir) as letters:
            return await _each(letters, DeadLetterFilter(ids=frozenset([letter_id])), look, "reading", as_json)

    asyncio.run(work())
    if not found:
        raise CliError(f"no dead letter {letter_id}", "See `skydriver dead list`")
    letter = found[0]
    if output is not None:
        try:
            write_private(output, letter.body)
        except OSError as error:
            raise CliError(f"can't write {output}: {error.strerror}") from error
    whole = letter.as_plain() | {"traceback": letter.traceback, "body_sha256": letter.body_sha256,
                                 "headers": {name: str(value) for name, value in letter.headers.items()},
                                 **_body(letter.body)}  # fmt: skip
    if as_json:
        print_json(redact_document(whole))
    else:
        out.print(json_block(whole), soft_wrap=True)


@dead.command()
def redrive(
    ids: Ids = None,
    queue: Queue = None,
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to their queues, after the cause is fixed. The event log records who did it.

    A dead letter is removed after the broker has confirmed the message. If interrupted, it is kept or sent twice; consumers process
    it once. Deadlines of commands are removed.

    Example: skydriver dead redrive --queue skydriver.scan.request
    """
    letter_filter = _require_choice(_filter(ids, queue, reason, key, since, until), every)

    async def work() -> Tally:
        async with open_pool_for(database_url, data_dir) as pool, _letters(amqp_url, data_dir) as letters:

            async def redrive_letter(held: OpenDeadLetter) -> None:
                letter = held.letter
                kept = f"{letter.letter_id} was kept: queue {letter.queue or letter.exchange} does not exist"
                if not await held.can_redrive():
                    print_note(kept)
                    return
                event = DeadLetterRedriven(
                    letter_id=letter.letter_id, message_id=letter.message_id, queue=letter.queue, reason=letter.reason,
                    first_failed_at=letter.first_failed_at, last_failed_at=letter.last_failed_at,
                )  # fmt: skip
                await _record(pool, "redrive", letter, event)  # first, so that nothing is sent that the log does not record
                try:
                    await held.redrive()
                except OriginMissing:
                    print_note(kept)
                    return
                await held.settle()
                tally.settled += 1

            return await _each(letters, letter_filter, redrive_letter, "redriving", as_json, tally)

    tally = Tally()
    asyncio.run(work())
    _conclude(tally, "redriven", letter_filter, as_json)


@dead.command()
def discard(
    ids: Ids = None,
    queue: Queue = None,
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    why: Annotated[str, typer.Option("--why", help="Reason, recorded in the event log.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Permanently discard dead letters. The event log records which, why and by whom, but not their content.

    Example: skydriver dead discard 3f1c09aa27de --why "the scan was requested again"
    """
    letter_filter = _require_choice(_filter(ids, queue, reason, key, since, until), every)
    if not why.strip():
        raise CliError("--why is required", "Give the reason for the event log", exit_code=2)

    async def work() -> Tally:
        async with open_pool_for(database_url, data_dir) as pool, _letters(amqp_url, data_dir) as letters:

            async def discard_letter(held: OpenDeadLetter) -> None:
                letter = held.letter
                event = DeadLetterDiscarded(
                    letter_id=letter.letter_id, message_id=letter.message_id, queue=letter.queue, reason=letter.reason,
                    first_failed_at=letter.first_failed_at, last_failed_at=letter.last_failed_at,
                    body_sha256=letter.body_sha256, why=why,
                )  # fmt: skip
                await _record(pool, "discard", letter, event)
                await held.settle()
                tally.settled += 1

            return await _each(letters, letter_filter, discard_letter, "discarding", as_json, tally)

    tally = Tally()
    asyncio.run(work())
    _conclude(tally, "discarded", letter_filter, as_json)


async def _each(
    letters: DeadLetters,
    letter_filter: DeadLetterFilter,
    handle: Callable[[OpenDeadLetter], Any],
    what: str,
    as_json: bool,
    tally: Tally | None = None,
) -> Tally:
    """Go through all dead letters, which keeps their order, and handle the chosen ones."""
    tally = tally or Tally()
    with progress(what, letters.depth, as_json, unit="letters") as on_progress:
        seen = 0
        async for held in letters.letters():
            seen += 1
            if letter_filter.matches(held.letter):
                tally.chosen += 1
                await handle(held)
            on_progress(seen)
    return tally


@asynccontextmanager
async def _letters(amqp_url: str | None, data_dir: Path) -> AsyncIterator[DeadLetters]:
    try:
        async with open_dead_letters(find_url(amqp_url, "amqp_url", data_dir)) as letters:
            yield letters
    except InUse:
        raise CliError("another `skydriver dead` command is running", "Retry when it has finished") from None
    except TryLater as fault:
        if isinstance(fault.__cause__, asyncpg.InsufficientPrivilegeError):
            raise CliError(
                "this database user can't write to the event log", "Use a user with the role skydriver_operator"
            ) from fault
        raise CliError(fault.what, "No dead letter was lost. Check the URL and the server, and retry") from fault


async def _record(pool: Pool, act: str, letter: DeadLetter, event: SystemEvent) -> None:
    """Record it in the event log, once per dead letter, however often the command is repeated."""
    context = Context(command_id=f"dead-letter:{act}:{letter.letter_id}", correlation_id=letter.message_id, actor=actor())
    await system_chain.record(pool, Notifier(pool), "operator", context, event)


def actor() -> str:
    """Return the actor of an operator's command: the user of this machine."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator"


def _filter(
    ids: list[str] | None, queue: str | None, reason: str | None, key: str | None, since: str | None, until: str | None
) -> DeadLetterFilter:
    return DeadLetterFilter(
        ids=frozenset(ids or ()), queue=queue, reason=reason, key=key,
        since=None if since is None else parse_time(since, "--since"), until=None if until is None else parse_time(until, "--until"),
    )  # fmt: skip


def _require_choice(letter_filter: DeadLetterFilter, every: bool) -> DeadLetterFilter:
    if letter_filter.is_empty != every:
        raise CliError("choose letters by ids, by a filter, or with --all", "See `skydriver dead list`", exit_code=2)
    return letter_filter


def _conclude(tally: Tally, what: str, letter_filter: DeadLetterFilter, as_json: bool) -> None:
    if as_json:
        print_json({"chosen": tally.chosen, "settled": tally.settled})
    else:
        out.print(f"{tally.settled} of {tally.chosen} chosen dead letters {what}")
    if tally.settled < tally.chosen or (letter_filter.ids and tally.chosen < len(letter_filter.ids)):
        raise CliError(
            f"{max(tally.chosen, len(letter_filter.ids)) - tally.settled} dead letters were not {what}",
            "See `skydriver dead list`",
        )


def _show_line(letter: DeadLetter, as_json: bool) -> None:
    if as_json:
        print_json(redact_document(letter.as_plain()))
        return
    plain = letter.as_plain()
    first, last = (str(plain[name] or "unknown")[:19].replace("T", " ") for name in ("first_failed_at", "last_failed_at"))
    times = f"{last}" if letter.failures == 1 else f"{last}, first {first}, {letter.failures} times"
    out.print(
        f"{letter.letter_id}  {letter.queue or letter.key}  {times}  {letter.reason}",
        highlight=False,
        soft_wrap=True,
    )


def _body(body: bytes) -> dict[str, Any]:
    """Return the body for a person: as JSON, as text, or the beginning of its bytes in base64, without credentials."""
    try:
        return {"body": redact_document(json.loads(body))}  # not orjson: integers beyond 64 bits would become floats
    except (ValueError, RecursionError):
        pass
    try:
        return {"body": redact_text(body.decode())[:100_000]}
    except UnicodeDecodeError:
        shown = redact_text(body.decode("latin-1")).encode("latin-1")
        return {"body_base64": base64.b64encode(shown[:3000]).decode()}
