"""After an outage what was kept meanwhile comes first: only then is silence silence."""

from skydriver_progress.backlog_gate import BacklogGate


async def test_it_is_open_only_when_all_has_been_clear_for_a_while() -> None:
    now, is_clear = 0.0, True

    async def look() -> bool:
        return is_clear

    gate = BacklogGate(look, settle_time_s=100, clock=lambda: now)
    assert not await gate.is_open()  # the service has just begun
    now = 100
    assert await gate.is_open()
    is_clear = False
    assert not await gate.is_open()
    is_clear, now = True, 199
    assert not await gate.is_open()
    now = 200
    assert await gate.is_open()
    now = 1000  # nobody could ask: the database was away
    assert not await gate.is_open()
    now = 1100
    assert await gate.is_open()
