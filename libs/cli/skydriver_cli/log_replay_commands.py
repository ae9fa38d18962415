"""``skydriver log replay``: the past, told again to whoever wants to hear it."""

import asyncio
import signal
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console

from skydriver_cli.connections import database, find_url, parse_time
from skydriver_cli.errors import CliError
from skydriver_cli.log_commands import ScanOption, SinceOption, TypeOption, show_event
from skydriver_cli.log_proof_commands import progress
from skydriver_cli.options import DEFAULT_DATA_DIR, AmqpUrl, AsJson, DatabaseUrl, DataDir
from skydriver_cli.output import print_json
from skydriver_common.db.pool import Connection
from skydriver_common.faults import TryLater
from skydriver_common.model.ids import ScanId
from skydriver_ops.bus.replay import RateLimiter, Target, TargetNotFound, target
from skydriver_ops.eventlog import selection
from skydriver_ops.eventlog.selection import START, ChainedEvent, Cursor, Selection

out = Console()


def add_to(log: typer.Typer) -> None:
    """Register the command."""
    log.command()(replay)


@dataclass(slots=True)
class _State:
    """How far it has come: what is confirmed, and with which position to go on. at_once: most that are on their way together."""

    at_once: int
    published: int = 0
    first: int | None = None
    last: int | None = None
    after: Cursor = START


def replay(
    to: Annotated[str, typer.Option("--to", help="An exchange (each event goes by its type) or a queue.")],
    scan: ScanOption = None,
    type_: TypeOption = None,
    since: SinceOption = None,
    until: Annotated[str | None, typer.Option("--until", help="Only before this time (ISO 8601, UTC without a zone).")] = None,
    from_position: Annotated[
        int | None,
        typer.Option("--from-position", min=1, help="Begin with this event, as when going on after an interruption."),
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="At most so many events per second: 50/s.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be published.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database_url: DatabaseUrl = None,
    amqp_url: AmqpUrl = None,
    as_json: AsJson = False,
) -> None:
    """Publish past events again, with their own ids and times and the header x-replayed, in the order of their commits.

    Consumers that heard them before ignore them. Interrupted, it says with which position to go on.
    Example: skydriver log replay --since 2026-11-01 --until 2026-12-01 --to audit --rate 500/s
    """
    chosen = Selection(
        scan_id=None if scan is None else ScanId(scan),
        types=tuple(type_) if type_ else None, since=None if since is None else parse_time(since, "--since"),
        until=None if until is None else parse_time(until, "--until"),
    )  # fmt: skip
    pace = RateLimiter(_per_second(rate))
    state = _State(pace.at_once)

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with database(database_url, data_dir) as connection:
            if from_position is not None:
                state.after = await selection.before(connection, from_position)
            if dry_run:
                await _say_only(connection, chosen, state, as_json)
                return
            async with target(find_url(amqp_url, "amqp_url", data_dir), to) as place:
                await _publish(connection, chosen, place, pace, state, as_json)

    try:
        asyncio.run(work())
    except TargetNotFound as error:
        raise CliError(str(error), "Declare it, or bind a queue to an exchange, before replaying") from error
    except TryLater as fault:
        raise CliError(fault.what, _go_on(state)) from fault
    except KeyboardInterrupt:
        raise CliError("interrupted", _go_on(state), exit_code=130) from None
    except asyncio.CancelledError:
        raise CliError("told to stop", _go_on(state), exit_code=143) from None
    if as_json:
        print_json({"events": state.published, "first_position": state.first, "last_position": state.last, "dry_run": dry_run})
    elif dry_run:
        out.print(f"{state.published} events would be published to {to}")
    else:
        out.print(f"{state.published} events were published to {to}")


async def _publish(
    connection: Connection, chosen: Selection, place: Target, pace: RateLimiter, state: _State, as_json: bool
) -> None:
    """Page by page, up to what was committed when it began: what comes later is the relay's."""
    head = await selection.head(connection)
    with progress("replaying", head.position, as_json) as on_progress:
        async for page in selection.pages(connection, chosen, after=state.after):
            links = [one for one in page if _up_to(one, head)]
            for start in range(0, len(links), pace.at_once):
                part = links[start : start + pace.at_once]
                await pace.passes(len(part))
                await place.publish(part)
                _count(state, part)
                on_progress(part[-1].event.position)
            if len(links) < len(page):
                return


async def _say_only(connection: Connection, chosen: Selection, state: _State, as_json: bool) -> None:
    async for page in selection.pages(connection, chosen, after=state.after):
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


def _go_on(state: _State) -> str:
    """What is on its way without confirmation may have arrived."""
    if state.last is None:
        return f"None is confirmed; up to {state.at_once} may have been published"
    return (
        f"{state.published} events were published; go on with --from-position {state.last} (it, and up to {state.at_once} after it, "
        "may come twice)"
    )


def _per_second(rate: str | None) -> float | None:
    if rate is None:
        return None
    try:
        per_s = float(rate.removesuffix("/s"))
    except ValueError:
        per_s = 0.0
    if not 0.0 < per_s < 1e9:
        raise CliError(f"--rate: {rate!r} is no rate", "Write it as 50/s", exit_code=2)
    return per_s
