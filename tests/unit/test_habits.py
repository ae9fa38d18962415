"""What no test does, since it would be red on a slower machine: sleep to give something time, and judge by the clock."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
WAITING = TESTS / "support" / "waiting.py"
MODULES = sorted(TESTS.rglob("*.py"))
CLOCKS = {"monotonic", "perf_counter", "process_time", "monotonic_ns", "perf_counter_ns"}
ON_PURPOSE = (
    "chaos/", "kube/test_kills.py", "support/kmock_cluster.py", "support/kube/control_plane.py",
    "integration/skydriver_common/test_unit_of_work.py", "integration/skydriver_dispatcher/test_races.py",
    "integration/skydriver_progress/test_ingest_under_kills.py", "integration/skydriver_ewms_bridge/test_lost_deliveries.py",
    "integration/skydriver_scanner/test_rest.py", "integration/skydriver_api/test_gateway_under_strain.py",
    "unit/skydriver_common/test_loops.py", "unit/skydriver_scanner/test_spool.py", "acceptance/test_at_the_same_time.py",
)  # fmt: skip
"""Where time passes on purpose: random moments, faults of some length, slow peers, loops of a test's own, a virtual clock."""


def _name(path: Path) -> str:
    return str(path.relative_to(TESTS))


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", [path for path in MODULES if path != WAITING], ids=_name)
def test_nobody_sleeps(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = [call.lineno for call, name in _calls(tree) if name in ("time.sleep", "asyncio.sleep", "anyio.sleep", "sleep")]
    assert not found, f"{_name(path)}: sleeps in lines {found}; wait by tests/support/waiting.py for what is to come true"
    if not _name(path).startswith(ON_PURPOSE):
        pauses = [call.lineno for call, name in _calls(tree) if name in ("pause", "block")]
        assert not pauses, (
            f"{_name(path)}: lines {pauses}; a pause is for what takes time on purpose (ON_PURPOSE in {__name__})"
        )


def _reads_a_clock(node: ast.AST, clocks: set[str]) -> bool:
    return any(
        isinstance(each, ast.Call)
        and (
            (isinstance(each.func, ast.Attribute) and each.func.attr in clocks)
            or (isinstance(each.func, ast.Name) and each.func.id in clocks)
        )
        for each in ast.walk(node)
    )


@pytest.mark.parametrize("path", [path for path in MODULES if path != WAITING], ids=_name)
def test_no_assertion_is_about_a_span_of_time(path: Path) -> None:
    """Spans that are stored first are found too: whatever was made of a difference of two readings of a clock."""
    tree = ast.parse(path.read_text())
    spans = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and _reads_a_clock(node.value, CLOCKS)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lists = {
        ast.unparse(call.func.value)
        for call, _ in _calls(tree)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "append" and _reads_a_clock(call, CLOCKS)
    }
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        and (
            _reads_a_clock(node.test, CLOCKS)
            or any(isinstance(each, ast.Name) and each.id in spans | lists for each in ast.walk(node.test))
        )
    ]
    assert not found, f"{_name(path)}: lines {found} judge by the clock; say what it means (an order, a count, a state reached)"
