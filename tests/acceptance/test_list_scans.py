"""``GET /scans``: the list for people, through the front door."""

import pytest

from tests.acceptance.conftest import Running
from tests.acceptance.rest import REAL_PATCH, ok, request_scan, status_of


def test_a_list_goes_page_by_page_and_finds_by_words(quiet_system: Running) -> None:
    first, second, third = (
        request_scan(quiet_system, classifiers={"listed": "yes", "number": number}, priority=number)["scan_id"]
        for number in (1, 2, 3)
    )
    ok(quiet_system.call("PATCH", f"/scan/{second}/manifest", body=REAL_PATCH, role="system"))
    page = quiet_system.get("/scans?classifier=listed:yes&limit=2")
    assert [scan["scan_id"] for scan in page["scans"]] == [third, second]
    rest = quiet_system.get(f"/scans?classifier=listed:yes&limit=2&after={page['next']}")
    assert [scan["scan_id"] for scan in rest["scans"]] == [first]
    assert rest["next"] is None

    def found(words: str) -> list[str]:
        return [scan["scan_id"] for scan in quiet_system.get(f"/scans?classifier=listed:yes&{words}")["scans"]]

    assert found("run_id=1&event_id=2") == [second]
    assert found("classifier=number:3") == [third]
    assert found("order=oldest") == [first, second, third]
    assert found("order=priority") == [third, second, first]
    assert found("min_priority=2&max_priority=2") == [second]
    assert found("state=complete,stopped") == []
    assert set(found("state=pending&state=in-progress&state=aborted")) == {first, second, third}
    assert found("since=2020-01-01T00:00:00Z&until=2020-01-02") == []
    assert found("since=1500000000.5") == [third, second, first]
    summary = page["scans"][1]
    assert summary["run_id"] == 1
    assert summary["classifiers"] == {"listed": "yes", "number": 2}
    assert summary["scan_state"] == quiet_system.get(f"/scan/{second}/status")["scan_state"]
    ok(quiet_system.call("DELETE", f"/scan/{third}"))
    assert found("") == [second, first]
    assert found("include_deleted=true") == [third, second, first]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("stat=pending", "stat: no parameter of this route"),
        ("state=lost", "state: must be a scan state, or one of"),
        ("run_id=x", "run_id: must be an integer"),
        ("classifier=gold", "classifier: must be NAME:VALUE"),
        ("classifier=a.b:1", "classifier: must be NAME:VALUE"),
        ("since=yesterday", "since: must be Unix seconds"),
        ("until=inf", "until: must be Unix seconds"),
        ("order=best", "order: must be newest, oldest or priority"),
        ("limit=501", "limit: must be an integer from 1 to 500"),
        ("after=*", "after: must be an id"),
    ],
)
def test_a_word_that_is_not_understood_is_named(quiet_system: Running, words: str, reason: str) -> None:
    answer = quiet_system.call("GET", f"/scans?{words}")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(reason)


def test_the_list_is_for_users(quiet_system: Running) -> None:
    assert status_of(quiet_system, "GET", "/scans", role="system") == 403
