"""What sites import into their broker fits the queues that the code declares."""

import json
import re
from pathlib import Path
from typing import Any

from skydriver_common.bus import topology

_FOLDER = Path(__file__).parents[3] / "deploy" / "rabbitmq"


def _policies(file: str) -> list[dict[str, Any]]:
    policies: list[dict[str, Any]] = json.loads((_FOLDER / file).read_text())["policies"]
    return policies


def _of_dead_letters(file: str) -> dict[str, Any]:
    [policy] = [policy for policy in _policies(file) if re.search(policy["pattern"], topology.DEAD_LETTER_QUEUE)]
    return policy


def test_from_rabbitmq_4_on_looks_at_dead_letters_are_not_counted_and_all_else_is_the_same() -> None:
    """The broker applies one policy to a queue, the one of the highest priority; older brokers refuse a limit of -1."""
    older, newer = _of_dead_letters("definitions.json"), _of_dead_letters("definitions-rabbitmq-4.json")
    assert newer["definition"] == older["definition"] | {"delivery-limit": -1}
    assert newer["priority"] > older["priority"]
    assert newer["name"] != older["name"]
    assert "delivery-limit" not in older["definition"]


def test_no_other_queue_of_ours_is_bounded_by_a_policy() -> None:
    for file in ("definitions.json", "definitions-rabbitmq-4.json"):
        for policy in _policies(file):
            for kind in topology.SCANNER_KINDS:
                assert not re.search(policy["pattern"], topology.scanner_queue(kind).name)
            assert not re.search(policy["pattern"], topology.command_queue("scan.request").name)
