"""When a scanner may connect, how far back in the line its queues are, and until when its tokens are good."""

import jwt
import pytest

from skydriver_ewms_bridge.decide.queues import all_activated, place_in_line, queue_profile, tokens_end_at
from skydriver_ewms_bridge.ewms_types import QueueProfile, Taskforce


def a_profile(alias: str, *, token: str = "secret", is_activated: bool = True) -> QueueProfile:
    if not is_activated:
        return QueueProfile(f"a-{alias}", alias, is_activated=False)
    return QueueProfile(f"a-{alias}", alias, True, token, "rabbitmq", "user@broker.example:5671/vhost")


def test_no_queue_at_all_is_not_all_queues() -> None:
    assert not all_activated([])


def test_one_waiting_queue_holds_the_scan_back() -> None:
    ready = a_profile("to-client-queue")

    assert not all_activated([ready, a_profile("from-client-queue", is_activated=False)])
    assert not all_activated([ready])
    assert all_activated([ready, a_profile("from-client-queue")])


def test_an_activated_queue_without_a_token_is_not_ready() -> None:
    bare = QueueProfile("a1", "from-client-queue", is_activated=True)

    assert not all_activated([a_profile("to-client-queue"), bare])


def test_the_profile_is_matched_by_alias_in_any_order() -> None:
    profile = queue_profile([a_profile("from-client-queue", token="f"), a_profile("to-client-queue", token="t")])

    address = {"broker_type": "rabbitmq", "broker_address": "user@broker.example:5671/vhost"}
    assert profile == {
        "toclient": {"name": "a-to-client-queue", "auth_token": "t", **address},
        "fromclient": {"name": "a-from-client-queue", "auth_token": "f", **address},
    }


def test_a_profile_is_not_made_too_early() -> None:
    with pytest.raises(ValueError, match="not all activated"):
        queue_profile([a_profile("to-client-queue", is_activated=False)])


def test_a_profile_shows_no_token_when_it_is_printed() -> None:
    assert "secret" not in repr(a_profile("to-client-queue"))


def test_the_earliest_token_decides_when_the_tokens_end() -> None:
    key = "k" * 32
    late = jwt.encode({"exp": 2000.5}, key, algorithm="HS256")
    early = jwt.encode({"exp": 1000}, key, algorithm="HS256")

    assert tokens_end_at([a_profile("a", token=late), a_profile("b", token=early)]) == 1000.0
    assert tokens_end_at([a_profile("a", token="plain password"), a_profile("b", token="a.b.c")]) is None


def waiting(workflow_id: str, *, timestamp: float, priority: int = 100) -> Taskforce:
    return Taskforce(f"TF-{workflow_id}", "TK", workflow_id, timestamp, 1, "pre-mq-activation", priority=priority)


def test_the_line_is_ordered_by_priority_then_age_and_counts_workflows() -> None:
    line = [
        waiting("ours", timestamp=5.0),
        waiting("ours", timestamp=6.0),
        waiting("older", timestamp=4.0),
        waiting("older", timestamp=4.5),
        waiting("younger", timestamp=7.0),
        waiting("urgent", timestamp=9.0, priority=200),
    ]

    assert place_in_line(line, "ours") == 2
    assert place_in_line(line, "urgent") == 0
    assert place_in_line(line, "not there") is None
