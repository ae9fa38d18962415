"""A scan's memory across restarts."""

from pathlib import Path

import pytest

from skydriver_sandbox.events import read_event
from skydriver_sandbox.likelihood import reconstruct
from skydriver_sandbox.sample_event import sample_event
from skydriver_sandbox.scanner.journal import Journal, JournalDamagedError, Received, SentRound

FACTS = read_event(sample_event(), is_real=True).facts


def _journal(path: Path) -> Journal:
    return Journal(path / "journal.jsonl", "fingerprint")


def _write_some(path: Path) -> None:
    journal = _journal(path)
    assert journal.open().entries == []
    journal.started(1.0, "queue")
    journal.sent(2.0, [(8, 1), (8, 0)])
    journal.published(2.5)
    journal.received(3.0, reconstruct(FACTS, "splinempe", 8, 1, 0), 0.25)
    journal.sent(4.0, [(64, 7)])
    journal.close()


def test_what_was_written_is_read_back_in_order(tmp_path: Path) -> None:
    _write_some(tmp_path)
    past = _journal(tmp_path).open()
    assert (past.started_at, past.queue) == (1.0, "queue")
    first, received, second = past.entries
    assert first == SentRound(2.0, [(8, 1), (8, 0)], is_published=True)
    assert isinstance(received, Received)
    assert (received.at, received.runtime_s, received.answer.pixel_id) == (3.0, 0.25, 1)
    assert second == SentRound(4.0, [(64, 7)], is_published=False)


def test_the_first_start_stays_and_the_newest_queue_counts(tmp_path: Path) -> None:
    _write_some(tmp_path)
    journal = _journal(tmp_path)
    journal.open()
    journal.started(9.0, "other")
    journal.close()
    past = _journal(tmp_path).open()
    assert (past.started_at, past.queue) == (1.0, "other")


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_cut_by_a_kill_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    _write_some(tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    journal = _journal(tmp_path)
    assert len(journal.open().entries) == 2
    journal.sent(5.0, [(64, 8)])
    journal.close()
    assert _journal(tmp_path).open().entries[-1] == SentRound(5.0, [(64, 8)])


def test_a_journal_of_another_scan_is_refused(tmp_path: Path) -> None:
    _write_some(tmp_path)
    with pytest.raises(JournalDamagedError, match="another scan"):
        Journal(tmp_path / "journal.jsonl", "other").open()


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"kind": "sent"}\n')
    with pytest.raises(JournalDamagedError, match="not ours"):
        _journal(tmp_path).open()
