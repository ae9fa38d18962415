"""What a stored progress report says of the scan."""

from typing import cast

import pytest

from skydriver_common.model.progress_report import ProcessingStats, ProgressReport, has_reconstructed, is_finished


def _report(stats: dict[str, object]) -> ProgressReport:
    return cast(ProgressReport, {"processing_stats": cast(ProcessingStats, stats)})


def test_without_a_report_nothing_is_done() -> None:
    assert not has_reconstructed(None)
    assert not is_finished(None)


@pytest.mark.parametrize("is_done", [False, True])
def test_progress_is_what_has_a_rate(is_done: bool) -> None:
    assert has_reconstructed(_report({"rate": {"average": "1 s"} if is_done else {}})) is is_done


@pytest.mark.parametrize("is_done", [False, True])
def test_a_report_says_whether_it_is_finished(is_done: bool) -> None:
    assert is_finished(_report({"finished": is_done})) is is_done
