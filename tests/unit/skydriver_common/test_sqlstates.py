"""What an error of the database means, for every code that the driver knows."""

import asyncio
from collections.abc import Iterator
from operator import attrgetter

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from skydriver_common.db.errors import database_faults, fault_of
from skydriver_common.db.sqlstates import Meaning, meaning_of
from skydriver_common.faults import TryLater

OUTAGES = (
    *("08000", "08006", "25006", "25P03", "28000", "28P01", "40001", "40P01", "53100", "53200", "53300", "55P03"),
    *("57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030", "XX000", "XX001"),
)


def known_errors(kind: type[asyncpg.PostgresError] = asyncpg.PostgresError) -> Iterator[type[asyncpg.PostgresError]]:
    for error in kind.__subclasses__():
        if error.sqlstate:
            yield error
        yield from known_errors(error)


def of_sqlstate(code: str) -> asyncpg.PostgresError:
    error = asyncpg.PostgresError("a failure")
    vars(error)["sqlstate"] = code
    return error


KNOWN: list[type[asyncpg.PostgresError]] = sorted(set(known_errors()), key=attrgetter("sqlstate", "__name__"))


@pytest.mark.parametrize("error", KNOWN)
def test_only_data_can_be_a_messages_own_fault(error: type[asyncpg.PostgresError]) -> None:
    is_of_data = error.sqlstate[:2] in ("22", "23", "54")
    assert (meaning_of(error.sqlstate).meaning is Meaning.DATA) == is_of_data
    with capture_logs(), pytest.raises(error if is_of_data else TryLater), database_faults():
        raise error("it fails")


@pytest.mark.parametrize("code", OUTAGES)
def test_an_outage_is_waited_for_without_an_error_in_the_log(code: str) -> None:
    with capture_logs() as logs:
        fault = fault_of(of_sqlstate(code))
    assert meaning_of(code).meaning is Meaning.OUTAGE
    assert fault is not None
    assert logs == []


@pytest.mark.parametrize("code", ["42P01", "42501", "25001", "0A000", "P0001", "SD001", "99999", None])
def test_a_defect_of_ours_is_waited_for_and_logged_with_its_traceback(code: str | None) -> None:
    with capture_logs() as logs:
        fault = fault_of(of_sqlstate(code or ""))
    assert meaning_of(code).meaning is Meaning.DEFECT
    assert fault is not None
    assert [entry["event"] for entry in logs] == ["database.defect"]


@given(st.one_of(st.none(), st.text(max_size=6)))
def test_every_code_has_a_meaning_and_a_pause_that_a_loop_can_take(code: str | None) -> None:
    found = meaning_of(code)
    assert 0 <= found.pause_s <= 5
    assert (found.meaning is Meaning.DATA) == ((code or "")[:2] in ("22", "23", "54"))


def test_values_that_the_driver_cannot_encode_are_the_datas_fault_and_a_lost_connection_is_not() -> None:
    class NoValue(asyncpg.InterfaceError, ValueError):
        """As the driver raises it before anything is sent."""

    assert fault_of(NoValue("invalid input for query argument $1")) is None
    assert isinstance(fault_of(asyncpg.InterfaceError("connection is closed")), TryLater)
    assert isinstance(fault_of(asyncpg.InternalClientError("got a message that nobody expects")), TryLater)
    assert fault_of(KeyError("a bug")) is None


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), OSError("no route to host")])
def test_a_database_that_cannot_be_reached_is_waited_for(error: Exception) -> None:
    with pytest.raises(TryLater), database_faults():
        raise error


def test_a_cancellation_stays_one() -> None:
    with pytest.raises(asyncio.CancelledError), database_faults():
        raise asyncio.CancelledError
