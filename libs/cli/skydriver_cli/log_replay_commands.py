"""``skydriver log replay``: publish past events again."""

import asyncio
import signal
from dataclasses import dataclass
from typing import Annotated

import typer

from skydriver_cli.connections import database, find_url, parse_time
from skydriver_cli.errors import CliError
from skydriver_cli.log_commands import ScanOption, SinceOption, TypeOption, known_types, show_event
from skydriver_cli.log_proof_commands import progress
from skydriver_cli.options import DEFAULT_DATA_DIR, AmqpUrl, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import Terminal, print_json
from skydriver_common.db.pool import Connection
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ops.bus.replay import RateLimiter, Target, TargetNotFound, target
from skydriver_ops.eventlog import selection
from skydriver_ops.eventlog.selection import START, ChainedEvent, Cursor, Selection

out = Terminal()


def add_to(log: typer.Typer) -> None:
    """Register the command."""
    log.command()(replay)


@dataclass(slots=True)
class _State:
    """What was confirmed, and from where to resume. at_once: maximum number of events that are published together."""

    at_once: int
    published: int = 0
    first: int | None = None
    last: int | None = None
    after: Cursor = START


def replay(
    to: Annotated[str, typer.Option("--to", help="Target: an exchange (the routing key is the event's type) or a queue.")],
    scan: ScanOption = None,
    type_: TypeOption = None,
    since: SinceOption = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only events before this time (ISO 8601, UTC without a zone).")
    ] = None,
    from_position: Annotated[
        int | None,
        typer.Option("--from-position", min=1, help="Begin with this event, for example to resume."),
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Maximum rate, such as 50/s.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be published.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish past events again, in commit order, with their ids and times and the header x-replayed.

    Consumers ignore events they have already processed. If interrupted, it prints the position to resume from.

    Example: skydriver log replay --since 2026-11-01 --until 2026-12-01 --to audit --rate 500/s
    """
    chosen = Selection(
        scan_id=None if scan is None else ScanId(scan),
        types=known_types(type_), since=None if since is None else parse_time(since, "--since"),
        until=None if until is None else parse_time(until, "--until"),
    )  # fmt: skip
    limiter = RateLimiter(_per_second(rate))
    state = _State(limiter.at_once)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with database(database_url, data_dir) as connection:
            if from_position is not None:
                state.after = await selection.cursor_before(connection, from_position)
            if dry_run:
                await _print_only(connection, chosen, state, as_json)
                return
            async with target(find_url(amqp_url, "amqp_url", data_dir), to) as destination:
                await _publish(connection, chosen, destination, limiter, state, as_json)

    try:
        asyncio.run(work())
    except TargetNotFound as error:
        raise CliError(str(error), "Declare it, or bind a queue to the exchange, before replaying") from error
    except TryLater as fault:
        raise CliError(fault.what, _resume_advice(state)) from fault
    except KeyboardInterrupt:
        raise CliError("interrupted", _resume_advice(state), exit_code=130) from None
    except asyncio.CancelledError:
        raise CliError("terminated", _resume_advice(state), exit_code=143) from None
    if as_json:
        print_json({"events": state.published, "first_position": state.first, "last_position": state.last, "dry_run": dry_run})
    elif dry_run:
        out.print(f"{state.published} events would be published to {to}")
    else:
        out.print(f"{state.published} events published to {to}")


async def _publish(
    connection: Connection, chosen: Selection, destination: Target, limiter: RateLimiter, state: _State, as_json: bool
) -> None:
    """Publish page by page what was committed before the start; the relay publishes what is newer."""
    head = await selection.load_head(connection)
    with progress("replaying", head.position, as_json) as on_progress:
        async for page in selection.iter_pages(connection, chosen, after=state.after):
            links = [one for one in page if _up_to(one, head)]
            for start in range(0, len(links), limiter.at_once):
                part = links[start : start + limiter.at_once]
                await limiter.passes(len(part))
                await destination.publish(part)
                _count(state, part)
                on_progress(part[-1].event.position)
            if len(links) < len(page):
                return


async def _print_only(connection: Connection, chosen: Selection, state: _State, as_json: bool) -> None:
    async for page in selection.iter_pages(connection, chosen, after=state.after):
        for one in page:
            show_event(one.event, as_json)
        _count(state, page)


def _up_to(one: ChainedEvent, head: Cursor) -> bool:
    return (int(one.xid), one.event.position) <= (int(head.xid), head.position)


def _count(state: _State, links: list[ChainedEvent]) -> None:
    state.published += len(links)
    state.first = links[0].event.position if state.first is None else state.first
    state.last = links[-1].event.position
    state.after = links[-1].cursor


def _resume_advice(state: _State) -> str:
    """Return how to resume. Events published without confirmation may have arrived."""
    if state.last is None:
        return f"No event was confirmed; up to {state.at_once} may have been published"
    return (
        f"{state.published} events published. Resume with --from-position {state.last} (up to {state.at_once} events may be "
        "published twice)"
    )


def _per_second(rate: str | None) -> float | None:
    if rate is None:
        return None
    try:
        per_s = float(rate.removesuffix("/s"))
    except ValueError:
        per_s = 0.0
    if not 0.0 < per_s < 1e9:
        raise CliError(f"--rate: invalid rate {rate!r}", "Write it as 50/s", exit_code=2)
    return per_s
