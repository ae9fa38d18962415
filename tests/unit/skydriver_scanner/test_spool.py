"""The spool against a model of it: whatever is done, nothing that counts is lost, and a new session finds the same."""

import errno
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skydriver_scanner import SettingsProblem, SpoolFull
from skydriver_scanner.spool import Entry, Spool

LIMIT = 4000


class SpoolMachine(RuleBasedStateMachine):
    """Puts, deliveries, refusals and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.folder = Path(self._home.name) / "scan"
        self.lives = 0
        self.spool = self._open()
        self.expected: list[tuple[str, bytes, bool]] = []

    def _open(self) -> Spool:
        self.lives += 1
        return Spool(self.folder, f"p{self.lives}", max_bytes=LIMIT)

    def teardown(self) -> None:
        self.spool.close()
        self._home.cleanup()

    @rule(body=st.binary(max_size=900), is_final=st.booleans())
    def put_result(self, body: bytes, is_final: bool) -> None:
        try:
            self.spool.put("result", body, is_final=is_final)
        except SpoolFull:
            assert not is_final
            assert sum(len(plain) + 200 for _, plain, _ in self.expected) + len(body) > LIMIT
        else:
            self.expected.append(("result", body, is_final))

    @rule(body=st.binary(max_size=50))
    def put_failure(self, body: bytes) -> None:
        self.spool.put("failure", body)
        self.expected.append(("failure", body, False))

    @rule(body=st.binary(max_size=50))
    def put_progress(self, body: bytes) -> None:
        self.spool.put_progress(body)
        self.expected = [one for one in self.expected if one[0] != "progress"] + [("progress", body, False)]

    @rule()
    def deliver(self) -> None:
        entry = self.spool.first()
        if entry is not None:
            self.spool.delivered(entry)
            self.spool.delivered(entry)  # twice does no harm
            del self.expected[0]

    @rule()
    def refuse(self) -> None:
        entry = self.spool.first()
        if entry is not None:
            self.spool.refused(entry, "because")
            del self.expected[0]

    @rule()
    def restart(self) -> None:
        self.spool.save_progress()
        self.spool.close()
        self.spool = self._open()

    @rule()
    def crash(self) -> None:
        """Progress in memory may be lost; that on disk and all else is not."""
        self.spool.close()
        self.spool = self._open()
        if not any(entry.kind == "progress" for entry in self._entries()):
            self.expected = [one for one in self.expected if one[0] != "progress"]

    def _entries(self) -> list[Entry]:
        return [self.spool._waiting[order] for order in sorted(self.spool._waiting)]

    @invariant()
    def holds_what_is_expected_in_order(self) -> None:
        found = [(entry.kind, self.spool.read(entry), entry.is_final) for entry in self._entries()]
        assert found == self.expected
        mine = [entry.sequence for entry in self._entries() if entry.producer == f"p{self.lives}"]
        assert mine == sorted(set(mine))


SpoolMachine.TestCase.settings = hypothesis_settings(max_examples=30, stateful_step_count=25, deadline=None)
TestSpool = SpoolMachine.TestCase


def test_a_damaged_file_is_set_aside_and_the_rest_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    for body in (b"one", b"two", b"three"):
        spool.put("result", body)
    spool.close()
    first, second, _ = sorted(tmp_path.glob("*.message"))
    first.write_bytes(first.read_bytes()[:-1])
    (tmp_path / "x.new").write_bytes(b"half")
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    second.write_bytes(b"{}\n")  # damaged while the session runs
    bodies = []
    while (entry := spool.first()) is not None:
        if (plain := spool.read(entry)) is not None:
            bodies.append(plain)
            spool.delivered(entry)
    assert bodies == [b"three"]
    assert len(list(tmp_path.glob("*.damaged"))) == 2
    assert [one.why for one in spool.left()] == ["damaged on disk"] * 2
    spool.close()


def test_a_large_result_on_its_way_to_the_disk_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    writes, may_end = threading.Event(), threading.Event()

    def slow_disk(_: int) -> None:
        writes.set()
        assert may_end.wait(30)

    monkeypatch.setattr(os, "fsync", slow_disk)
    putting = threading.Thread(target=spool.put, args=("result", b"large"))
    putting.start()
    assert writes.wait(30)
    spool.put_progress(b"{}")  # would wait for ever
    entry = spool.first()
    assert entry is not None
    assert entry.kind == "progress"
    spool.delivered(entry)
    may_end.set()
    putting.join()
    assert [one.kind for one in spool.left()] == ["result"]
    spool.close()


def test_a_failure_from_a_signal_handler_in_the_midst_of_a_result_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    clock = time.time_ns
    handled: list[bool] = []

    def interrupted() -> int:
        """Where the spool asks for the time it holds its lock."""
        if not handled:
            handled.append(True)
            spool.put("failure", b"stopped")
        return clock()

    monkeypatch.setattr(time, "time_ns", interrupted)
    spool.put("result", b"one")
    assert {(one.kind, one.sequence) for one in spool.left()} == {("failure", 0), ("result", 1)}
    spool.close()


def test_what_the_disk_can_not_take_waits_in_memory_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(3):
            with pytest.raises(SpoolFull, match="No space left"):
                spool.put("result", b"x" * (LIMIT // 2))  # what was not taken takes no room
        spool.put("result", b"final", is_final=True)
        spool.put("failure", b"why")
        spool.put_progress(b"{}")
        spool.save_progress()
    assert list(tmp_path.glob("*.message")) == list(tmp_path.glob("*.new")) == []
    waiting = [(one.kind, one.path) for one in spool.left()]
    assert waiting == [("result", None), ("failure", None), ("progress", None)]
    while (entry := spool.first()) is not None:
        assert spool.read(entry)
        spool.delivered(entry)
    spool.put("result", b"x" * (LIMIT // 2))
    spool.close()


def test_what_is_set_aside_is_bounded_too(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    for _ in range(5):
        spool.put("result", b"x" * (LIMIT // 2))
        entry = spool.first()
        assert entry is not None
        spool.refused(entry, "because")
    assert len(list(tmp_path.glob("*.refused"))) == 1
    spool.put("result", b"x" * (2 * LIMIT), is_final=True)
    entry = spool.first()
    assert entry is not None
    spool.refused(entry, "because")
    [kept] = tmp_path.glob("*.refused")
    assert kept.stat().st_size > 2 * LIMIT  # the newest stays in any case
    spool.close()


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsProblem, match="can't be used"):
        Spool(tmp_path / "file" / "spool", "p", max_bytes=LIMIT)


def test_messages_are_for_the_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "p", max_bytes=LIMIT)
    spool.put("result", b"{}")
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "spool").iterdir())
    spool.close()
