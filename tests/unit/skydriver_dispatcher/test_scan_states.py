"""The truth table of waiting, running and over, as the documentation shows it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

from skydriver_common.model.scan import Launch, ResultRef
from skydriver_common.model.stages import LaunchState
from skydriver_dispatcher.decide.exits import can_end
from tests.support.launchers import a_queued_scan

PAGE = Path("docs/developers/scan-states.md")


def test_the_table_of_the_documentation_is_true_and_complete() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if line.startswith("|")
    ]
    header = rows.index(["launch", "deleted", "final result", "waiting", "may run", "over", "can end"])
    table = {tuple(row[:3]): row[3:] for row in rows[header + 2 : header + 18]}
    word = {True: "yes", False: "no"}
    states = list(product(LaunchState, (False, True), (False, True)))
    assert set(table) == {(launch, word[is_deleted], word[is_final]) for launch, is_deleted, is_final in states}
    for launch, is_deleted, is_final in states:
        scan = replace(
            a_queued_scan(), launch=Launch(state=launch), is_deleted=is_deleted,
            result=ResultRef(digest="sha256:1", size_bytes=1, is_final=True) if is_final else None,
        )  # fmt: skip
        expected = [word[each] for each in (scan.is_waiting, scan.may_run, scan.is_over, can_end(scan))]
        assert table[launch, word[is_deleted], word[is_final]] == expected
        assert not (scan.may_run and scan.is_over)
        assert not scan.is_waiting or scan.may_run
        assert not can_end(scan) or scan.may_run
