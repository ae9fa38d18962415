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


def _parsed() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        if path != WAITING:
            yield _name(path), ast.parse(path.read_text())


def _called(call: ast.Call) -> str:
    """`name` or `module.name`; of anything longer, the last word."""
    if isinstance(call.func, ast.Attribute):
        return f"{call.func.value.id}.{call.func.attr}" if isinstance(call.func.value, ast.Name) else call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_nobody_sleeps() -> None:
    sleeps, pauses = [], []
    for name, tree in _parsed():
        for call in _calls(tree):
            called = _called(call)
            if called in ("time.sleep", "asyncio.sleep", "anyio.sleep", "sleep"):
                sleeps.append(f"{name}:{call.lineno}")
            if called in ("pause", "block") and not name.startswith(ON_PURPOSE):
                pauses.append(f"{name}:{call.lineno}")
    assert not sleeps, "wait by tests/support/waiting.py for what is to come true"
    assert not pauses, "a pause is for what takes time on purpose; ON_PURPOSE lists where"


def _reads_a_clock(node: ast.AST) -> bool:
    return any(_called(call).rpartition(".")[2] in CLOCKS for call in _calls(node))


def _spans(tree: ast.AST) -> set[str]:
    """Names of what holds a difference of two readings of a clock, or a list of such."""
    names = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.BinOp)
            and isinstance(node.value.op, ast.Sub)
            and _reads_a_clock(node.value)
        ):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.Call) and (called := _called(node).partition("."))[2] == "append" and _reads_a_clock(node):
            names.add(called[0])
    return names


def test_no_assertion_is_about_a_span_of_time() -> None:
    found = []
    for name, tree in _parsed():
        spans = _spans(tree)
        found += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assert)
            and (_reads_a_clock(node.test) or any(isinstance(n, ast.Name) and n.id in spans for n in ast.walk(node.test)))
        ]
    assert not found, "say what it means: an order, a count, a state reached"


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("began = time.monotonic()\nassert time.monotonic() - began < 5", True),
        ("took = time.perf_counter() - began\nassert took < 5", True),
        ("delays.append(time.monotonic() - began)\nassert median(delays) < 1", True),
        ("deadline = time.monotonic() + 5\nassert answer == 200", False),
    ],
)
def test_what_counts_as_a_span(source: str, is_found: bool) -> None:
    tree = ast.parse(source)
    asserted = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    spans = _spans(tree)
    assert is_found == any(
        _reads_a_clock(t) or any(isinstance(n, ast.Name) and n.id in spans for n in ast.walk(t)) for t in asserted
    )
