"""After an outage what was kept meanwhile comes first: only then is silence silence."""

from skydriver_progress.backlog_gate import BacklogGate


async def test_it_is_sure_only_when_all_has_been_clear_for_a_while() -> None:
    now, is_clear = 0.0, True

    async def look() -> bool:
        return is_clear

    hearing = BacklogGate(look, settles_s=100, clock=lambda: now)
    assert not await hearing.is_sure()  # the service has just begun
    now = 100
    assert await hearing.is_sure()
    is_clear = False
    assert not await hearing.is_sure()
    is_clear, now = True, 199
    assert not await hearing.is_sure()
    now = 200
    assert await hearing.is_sure()
    now = 1000  # nobody could ask: the database was away
    assert not await hearing.is_sure()
    now = 1100
    assert await hearing.is_sure()
