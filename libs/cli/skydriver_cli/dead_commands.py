"""``skydriver dead …``: messages that nobody could do with. Looked at, sent back, or thrown away; safe beside the live system."""

import asyncio
import base64
import getpass
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console

from skydriver_cli.connections import find_url, open_pool_for, parse_time
from skydriver_cli.errors import CliError
from skydriver_cli.log_proof_commands import progress
from skydriver_cli.options import DEFAULT_DATA_DIR, AmqpUrl, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import json_text, print_json
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_common.db.notifier import Notifier
from skydriver_common.db.pool import Pool
from skydriver_common.faults import TryLater
from skydriver_common.log import system_chain
from skydriver_common.model.commands import Context
from skydriver_common.model.events import DeadLetterDiscarded, DeadLetterRedriven, SystemEvent
from skydriver_ops.bus.dead_letters import DeadLetters, InUse, OpenDeadLetter, OriginMissing, open_dead_letters

dead = typer.Typer()
out = Console()

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of letters, as `dead list` shows them.")]
Queue = Annotated[str | None, typer.Option("--queue", help="Only letters from this consumer's queue.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only letters whose reason contains this text.")]
Key = Annotated[str | None, typer.Option("--key", help="Only letters with this routing key, e.g. scan.request.")]
Since = Annotated[str | None, typer.Option("--since", help="Only what failed last at this time or later (ISO 8601).")]
Until = Annotated[str | None, typer.Option("--until", help="Only what failed last before this time (ISO 8601).")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which letters. None or empty: any."""

    ids: frozenset[str] = frozenset()
    queue: str | None = None
    reason: str | None = None
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_any(self) -> bool:
        """Whether it leaves nothing out."""
        return self == Choice()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this letter is meant."""
        return (
            (not self.ids or letter.letter_id in self.ids)
            and (self.queue is None or letter.queue == self.queue)
            and (self.reason is None or self.reason.lower() in letter.reason.lower())
            and (self.key is None or letter.key == self.key)
            and (self.since is None or letter.last_failed_at >= self.since.timestamp())
            and (self.until is None or letter.last_failed_at < self.until.timestamp())
        )


@dataclass(slots=True)
class Done:
    """What came of it."""

    chosen: int = 0
    settled: int = 0


@dead.command("list")
def list_(
    queue: Queue = None,
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="Show at most so many.")] = 1000,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show the dead letters, oldest failure first: why, whose, when first and last. They stay where they are.

    Example: skydriver dead list --queue skydriver.scan.request
    """
    choice = _choice(None, queue, reason, key, since, until)
    shown = 0

    async def look(held: OpenDeadLetter) -> None:
        nonlocal shown
        shown += 1
        if shown <= most:
            _show_line(held.letter, as_json)

    async def work() -> Done:
        async with _letters(amqp_url, data_dir) as letters:
            return await _each(letters, choice, look, "looking", as_json)

    done = asyncio.run(work())
    if not as_json:
        more = f", {done.chosen - most} more are not shown" if done.chosen > most else ""
        out.print(f"{done.chosen} dead letters{more}")


@dead.command()
def show(
    letter_id: str,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the message's body to this file.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole: headers, traceback, body.

    Example: skydriver dead show 3f1c09aa27de
    """
    found: list[DeadLetter] = []

    async def look(held: OpenDeadLetter) -> None:
        found[:] = [held.letter]

    async def work() -> Done:
        async with _letters(amqp_url, data_dir) as letters:
            return await _each(letters, Choice(ids=frozenset([letter_id])), look, "looking", as_json)

    asyncio.run(work())
    if not found:
        raise CliError(f"there is no dead letter {letter_id}", "See `skydriver dead list`")
    letter = found[0]
    if output is not None:
        try:
            output.write_bytes(letter.body)
        except OSError as error:
            raise CliError(f"{output} can't be written: {error.strerror}") from error
    whole = letter.as_plain() | {"traceback": letter.traceback, "body_sha256": letter.body_sha256,
                                 "headers": {name: str(value) for name, value in letter.headers.items()},
                                 **_body(letter.body)}  # fmt: skip
    if as_json:
        print_json(whole)
    else:
        out.print(json_text(whole, indent=2), markup=False, highlight=False, soft_wrap=True)


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
    """Send dead letters back to the queues they came from, once what had stopped them is mended; the log keeps that you did.

    A letter leaves the dead ones after the broker has confirmed it. Interrupted, it stays or is sent twice, and is handled once.
    Deadlines of commands are taken off. Example: skydriver dead redrive --queue skydriver.scan.request
    """
    choice = _decided(_choice(ids, queue, reason, key, since, until), every)

    async def work() -> Done:
        async with open_pool_for(database_url, data_dir) as pool, _letters(amqp_url, data_dir) as letters:

            async def back(held: OpenDeadLetter) -> None:
                letter = held.letter
                stays = f"{letter.letter_id} stays: there is no queue {letter.queue or letter.exchange}"
                if not await held.can_redrive():
                    _say(stays)
                    return
                event = DeadLetterRedriven(
                    letter_id=letter.letter_id, message_id=letter.message_id, queue=letter.queue, reason=letter.reason,
                    first_failed_at=letter.first_failed_at, last_failed_at=letter.last_failed_at,
                )  # fmt: skip
                await _record(pool, "redrive", letter, event)  # first: nothing is sent of which the log knows nothing
                try:
                    await held.redrive()
                except OriginMissing:
                    _say(stays)
                    return
                await held.settle()
                done.settled += 1

            return await _each(letters, choice, back, "sending back", as_json, done)

    done = Done()
    asyncio.run(work())
    _conclude(done, "sent back", choice, as_json)


@dead.command()
def discard(
    ids: Ids = None,
    queue: Queue = None,
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    why: Annotated[str, typer.Option("--why", help="Why they are not needed; kept in the log.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    amqp_url: AmqpUrl = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Throw dead letters away for good. The log keeps which, why, and by whom; not what was in them.

    Example: skydriver dead discard 3f1c09aa27de --why "the scan was requested again"
    """
    choice = _decided(_choice(ids, queue, reason, key, since, until), every)
    if not why.strip():
        raise CliError("--why is missing: say why they are not needed", exit_code=2)

    async def work() -> Done:
        async with open_pool_for(database_url, data_dir) as pool, _letters(amqp_url, data_dir) as letters:

            async def away(held: OpenDeadLetter) -> None:
                letter = held.letter
                event = DeadLetterDiscarded(
                    letter_id=letter.letter_id, message_id=letter.message_id, queue=letter.queue, reason=letter.reason,
                    first_failed_at=letter.first_failed_at, last_failed_at=letter.last_failed_at,
                    body_sha256=letter.body_sha256, why=why,
                )  # fmt: skip
                await _record(pool, "discard", letter, event)
                await held.settle()
                done.settled += 1

            return await _each(letters, choice, away, "discarding", as_json, done)

    done = Done()
    asyncio.run(work())
    _conclude(done, "thrown away", choice, as_json)


async def _each(
    letters: DeadLetters,
    choice: Choice,
    handle: Callable[[OpenDeadLetter], Any],
    what: str,
    as_json: bool,
    done: Done | None = None,
) -> Done:
    """Go through all letters, which is what keeps their order, and handle the chosen ones."""
    done = done or Done()
    with progress(what, letters.depth, as_json, unit="letters") as told:
        seen = 0
        async for held in letters.letters():
            seen += 1
            if choice.takes(held.letter):
                done.chosen += 1
                await handle(held)
            told(seen)
    return done


@asynccontextmanager
async def _letters(amqp_url: str | None, data_dir: Path) -> AsyncIterator[DeadLetters]:
    try:
        async with open_dead_letters(find_url(amqp_url, "amqp_url", data_dir)) as letters:
            yield letters
    except InUse:
        raise CliError("somebody else is looking through the dead letters", "Try again when they are done") from None
    except TryLater as fault:
        if isinstance(fault.__cause__, asyncpg.InsufficientPrivilegeError):
            raise CliError(
                "this database user may not write what it did into the log", "Use a user with the role skydriver_operator"
            ) from fault
        raise CliError(fault.what, "No letter is lost. Check the URL and the server, and try again") from fault


async def _record(pool: Pool, act: str, letter: DeadLetter, event: SystemEvent) -> None:
    """Into the log, once per letter, however often the command is repeated."""
    context = Context(command_id=f"dead-letter:{act}:{letter.letter_id}", correlation_id=letter.message_id, actor=actor())
    await system_chain.record(pool, Notifier(pool), "operator", context, event)


def actor() -> str:
    """Who operates: the user of this machine."""
    try:
        return f"operator:{getpass.getuser()}"
    except (KeyError, OSError):
        return "operator"


def _choice(
    ids: list[str] | None, queue: str | None, reason: str | None, key: str | None, since: str | None, until: str | None
) -> Choice:
    return Choice(
        ids=frozenset(ids or ()), queue=queue, reason=reason, key=key,
        since=None if since is None else parse_time(since, "--since"), until=None if until is None else parse_time(until, "--until"),
    )  # fmt: skip


def _decided(choice: Choice, every: bool) -> Choice:
    if choice.is_any != every:
        raise CliError("say which letters: ids, a filter, or --all (and not both)", "See `skydriver dead list`", exit_code=2)
    return choice


def _conclude(done: Done, what: str, choice: Choice, as_json: bool) -> None:
    if as_json:
        print_json({"chosen": done.chosen, "settled": done.settled})
    else:
        out.print(f"{done.settled} of {done.chosen} chosen dead letters {what}")
    if done.settled < done.chosen or (choice.ids and done.chosen < len(choice.ids)):
        raise CliError(
            f"{max(done.chosen, len(choice.ids)) - done.settled} letters were not {what}", "See `skydriver dead list`"
        )


def _show_line(letter: DeadLetter, as_json: bool) -> None:
    if as_json:
        print_json(letter.as_plain())
        return
    plain = letter.as_plain()
    first, last = (str(plain[name] or "unknown")[:19].replace("T", " ") for name in ("first_failed_at", "last_failed_at"))
    times = f"{last}" if letter.failures == 1 else f"{last}, first {first}, {letter.failures} times"
    out.print(
        f"{letter.letter_id}  {letter.queue or letter.key}  {times}  {letter.reason}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _body(body: bytes) -> dict[str, Any]:
    """The body for a person: as JSON, as text, or the beginning of its bytes in base64."""
    try:
        return {"body": json.loads(body)}  # not orjson: integers beyond 64 bits would become floats
    except ValueError:
        pass
    try:
        return {"body": body.decode()[:100_000]}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body[:3000]).decode()}


def _say(text: str) -> None:
    print(text, file=sys.stderr)
