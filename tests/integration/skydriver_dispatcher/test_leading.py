"""Who watches the cluster: one replica, of the right installation, in the right place, and without gaps."""

from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_dispatcher import store as statements
from skydriver_dispatcher.adapters.kubernetes.job_informer import JobInformer
from skydriver_dispatcher.adapters.kubernetes.lease import Leadership
from tests.integration.skydriver_dispatcher.test_watching import is_, stage, watching
from tests.support import pods
from tests.support.dispatchers import Dispatcher
from tests.support.histories import Store
from tests.support.kmock_cluster import NAMESPACE
from tests.support.launchers import JOBS
from tests.support.waiting import until


class Clock:
    """A replica's own."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_leadership(dispatcher: Dispatcher, clock: Clock, holder: str, **more: Any) -> Leadership:
    return Leadership(
        dispatcher.client, namespace=NAMESPACE, name="the-lease", holder=holder, lease_s=15.0, clock=clock, **more
    )


async def test_another_database_does_not_take_over_what_a_living_installation_watches(dispatcher: Dispatcher) -> None:
    clock = Clock()
    ours = a_leadership(dispatcher, clock, "one", installation="a")
    stranger = a_leadership(dispatcher, clock, "two", installation="b")
    for clock.now in range(0, 600, 5):
        await ours.renew()
        await stranger.renew()
        assert (ours.leads, stranger.leads, stranger.is_misplaced) == (True, False, True)
    # ours is gone without a word: a replica of the same installation takes over sooner than a stranger
    second = a_leadership(dispatcher, clock, "three", installation="a")
    began = 595
    await second.renew()
    for clock.now in range(began, began + 70, 5):
        await stranger.renew()
        assert stranger.leads == (clock.now - began > 4 * 15)
    assert not stranger.is_misplaced
    await second.renew()
    assert (second.leads, second.is_misplaced) == (False, True)


async def test_a_lease_that_was_given_back_is_anyones(dispatcher: Dispatcher) -> None:
    clock = Clock()
    ours, stranger = (
        a_leadership(dispatcher, clock, "one", installation="a"),
        a_leadership(dispatcher, clock, "two", installation="b"),
    )
    await ours.renew()
    await ours.release()
    await stranger.renew()
    assert stranger.leads
    await ours.renew()
    assert (ours.leads, ours.is_misplaced) == (False, True)


async def test_where_the_scans_are_watched_is_known_to_the_database(store: Store, dispatcher: Dispatcher) -> None:
    ids = {await statements.installation_id(store.pool) for _ in range(2)}
    assert len(ids) == 1
    assert await statements.lead_from(store.pool, "scans/one", for_s=120)
    assert not await statements.lead_from(store.pool, "scans/two", for_s=120)
    clock = Clock()
    for place, leads in (("scans/two", False), ("scans/one", True)):

        async def may_lead(place: str = place) -> bool:
            return await statements.lead_from(store.pool, place, for_s=120)

        leadership = a_leadership(dispatcher, clock, place, may_lead=may_lead)
        await leadership.renew()
        assert (leadership.leads, leadership.is_misplaced) == (leads, not leads)
        if not leads:
            assert dispatcher.cluster.count("POST", "leases") == 0
    await store.pool.execute("UPDATE launch_installation SET place_until = clock_timestamp() - interval '1 s'")
    assert await statements.lead_from(store.pool, "scans/two", for_s=120), "nobody has watched from there for a while"
    assert not await statements.lead_from(store.pool, "scans/one", for_s=120)


async def test_who_leads_goes_on_while_the_database_is_unavailable_and_nobody_begins(dispatcher: Dispatcher) -> None:
    available = True

    async def may_lead() -> bool:
        if not available:
            raise TryLater("the database is unavailable")
        return True

    clock = Clock()
    ours, other = (
        a_leadership(dispatcher, clock, "one", may_lead=may_lead),
        a_leadership(dispatcher, clock, "two", may_lead=may_lead),
    )
    await ours.renew()
    available = False
    for clock.now in range(0, 120, 5):
        await ours.renew()
        assert ours.leads
    with pytest.raises(TryLater):
        await other.renew()


async def test_a_renewal_that_is_late_does_not_end_the_lease_before_its_time(dispatcher: Dispatcher) -> None:
    clock = Clock()
    ours, other = a_leadership(dispatcher, clock, "one"), a_leadership(dispatcher, clock, "two")
    await ours.renew()
    await other.renew()
    clock.now = 13.0
    assert ours.leads
    clock.now = 14.0
    assert not ours.leads
    clock.now = 15.0
    await other.renew()
    assert not other.leads
    clock.now = 15.1
    await other.renew()
    assert other.leads
    await ours.renew()
    assert (ours.leads, ours.is_elsewhere) == (False, True)


async def test_watches_outlive_a_short_loss_of_the_lease(dispatcher: Dispatcher) -> None:
    scan_id = await dispatcher.launched()
    cluster = dispatcher.cluster
    async with watching(dispatcher):
        lists, watches = cluster.count("GET", "pods"), cluster.count("WATCH", "pods")
        fault = cluster.fail("GET", "leases", 500, times=1000)
        await until(lambda: not dispatcher.leadership.leads, "the lease is lost")
        await cluster.run_pod(scan_id, **pods.running(scan_id))
        fault.times = 0
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))
        assert (cluster.count("GET", "pods"), cluster.count("WATCH", "pods")) == (lists, watches)


async def test_a_watch_whose_peer_has_vanished_is_taken_up_again_after_a_silence(dispatcher: Dispatcher) -> None:
    dispatcher.watch = JobInformer(
        dispatcher.client, JOBS, dispatcher.leadership, dispatcher.pending, on_listed=lambda: None, timeout_s=2.0, silence_s=0.5
    )
    scan_id = await dispatcher.launched()
    cluster = dispatcher.cluster
    async with watching(dispatcher):
        lists = cluster.count("GET", "pods")
        cluster.vanish()
        await cluster.run_pod(scan_id, **pods.running(scan_id))
        await dispatcher.until(lambda: is_(stage(dispatcher, scan_id), ("running", "")))
        assert cluster.count("GET", "pods") == lists
