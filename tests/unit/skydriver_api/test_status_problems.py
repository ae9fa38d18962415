"""What the status adds to the problems that are stored with a scan."""

import time
from typing import Any

import orjson
import pytest

from skydriver_api.reads.view_queries import StatusView
from skydriver_api.routes.ewms import _problems

STORED = b'[{"code":"waiting-for-workers","text":"No worker runs yet"}]'


def a_view(**changes: Any) -> StatusView:
    values: dict[str, Any] = {
        "scan_id": "s", "is_deleted": False, "replaced_by": None, "state": "IN_PROGRESS__PARTIAL_RESULT_GENERATED",
        "deactivated": None, "ewms_workflow_id": "WF-1", "problems": STORED, "workforce": b"{}", "ewms_as_of": time.time(),
        "ewms_away_since": None, **changes,
    }  # fmt: skip
    return StatusView(**values)


def codes(view: StatusView) -> list[str]:
    return [problem["code"] for problem in orjson.loads(_problems(view))]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({}, ["waiting-for-workers"], id="all is known"),
        pytest.param({"ewms_as_of": None}, ["waiting-for-workers"], id="too early to know"),
        pytest.param({"ewms_away_since": 1.0}, ["ewms-away", "waiting-for-workers"], id="away"),
        pytest.param({"ewms_away_since": 1.0, "problems": b"[]"}, ["ewms-away"], id="away and nothing else"),
        pytest.param({"ewms_as_of": 1.0}, ["workers-unknown", "waiting-for-workers"], id="nobody asks"),
        pytest.param(
            {"ewms_as_of": 1.0, "ewms_away_since": 1.0}, ["ewms-away", "waiting-for-workers"], id="one reason is enough"
        ),
        pytest.param(
            {"bridge_away_since": 1.0, "ewms_as_of": 1.0, "ewms_away_since": 1.0},
            ["ewms-bridge-away", "waiting-for-workers"],
            id="the bridge knows nothing of EWMS while it stands still",
        ),
        pytest.param({"held": "closed", "problems": b"[]"}, ["launches-held"], id="nothing is launched"),
        pytest.param({"held": "cap", "is_deleted": True}, ["waiting-for-workers"], id="held and deleted"),
        pytest.param({"ewms_away_since": 1.0, "is_deleted": True}, ["waiting-for-workers"], id="deleted"),
        pytest.param({"ewms_away_since": 1.0, "state": "SCAN_HAS_FINAL_RESULT"}, ["waiting-for-workers"], id="complete"),
        pytest.param({"ewms_as_of": 1.0, "deactivated": "FINISHED"}, ["waiting-for-workers"], id="its workflow is stopped"),
    ],
)
def test_a_scan_that_needs_ewms_is_told_when_it_is_not_to_be_had(changes: dict[str, Any], said: list[str]) -> None:
    assert codes(a_view(**changes)) == said
