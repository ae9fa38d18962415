"""The spool against a model of it: whatever is done, nothing that counts is lost, and a new session finds the same."""

import errno
import json
import os
import random
import tempfile
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skydriver_scanner import SettingsError, SpoolFull
from skydriver_scanner.spool import Entry, Spool, make_private
from tests.support.waiting import block

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
        kept = [one for one in self.expected if one[0] != "result" or one[2]]
        try:
            self.spool.put("result", body, is_final=is_final)
        except SpoolFull:
            assert not is_final
            assert sum(len(plain) + 250 for _, plain, _ in kept) + len(body) > LIMIT
        else:
            self.expected.append(("result", body, is_final))
            self._expect_room_was_made()

    def _expect_room_was_made(self) -> None:
        """A partial result may have taken the room of older ones, the oldest first, and of no more than was needed."""
        found, dropped = len(self._entries()), 0
        while len(self.expected) > found:
            oldest = next(one for one in self.expected[:-1] if one[0] == "result" and not one[2])
            self.expected.remove(oldest)
            dropped = len(oldest[1]) + 250
        on_disk = sum(path.stat().st_size for path in self.folder.glob("*.message"))
        assert not dropped or on_disk <= LIMIT < on_disk + dropped

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
            self.spool.reject(entry, "because")
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
    numbers = spool._sequences
    handled: list[bool] = []

    class Interrupted:
        """Where the spool gives a number it holds its lock."""

        def __next__(self) -> int:
            if not handled:
                handled.append(True)
                spool.put("failure", b"stopped")
            return next(numbers)

    monkeypatch.setattr(spool, "_sequences", Interrupted())
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
        spool.reject(entry, "because")
    assert len(list(tmp_path.glob("*.refused"))) == 1
    spool.put("result", b"x" * (2 * LIMIT), is_final=True)
    entry = spool.first()
    assert entry is not None
    spool.reject(entry, "because")
    [kept] = tmp_path.glob("*.refused")
    assert kept.stat().st_size > 2 * LIMIT  # the newest stays in any case
    spool.close()


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool", "p", max_bytes=LIMIT)


def test_messages_are_for_the_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "p", max_bytes=LIMIT)
    spool.put("result", b"{}")
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "spool").iterdir())
    spool.close()


def _slow_disk(monkeypatch: pytest.MonkeyPatch, slow: bytes) -> tuple[threading.Event, threading.Event]:
    """The write of this body begins, and may end. A file of the spool is synced before its folder."""
    begins, may_end = threading.Event(), threading.Event()

    def sync(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}")
        if name.endswith(".new") and Path(name).read_bytes().endswith(slow):
            begins.set()
            assert may_end.wait(30)

    monkeypatch.setattr(os, "fsync", sync)
    return begins, may_end


@pytest.mark.parametrize("is_taken", [True, False])
def test_what_was_handed_over_later_waits_for_the_one_before_it_that_is_still_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    begins, may_end = _slow_disk(monkeypatch, b"final")
    putting = threading.Thread(target=spool.put, args=("result", b"final"), kwargs={"is_final": True})
    putting.start()
    assert begins.wait(30)
    spool.put("result", b"partial")
    spool.put("failure", b"of another kind")
    entry = spool.first()
    assert entry is not None
    assert entry.kind == "failure"
    spool.delivered(entry)
    assert spool.first() is None
    assert not spool.is_empty()
    assert [(one.kind, one.is_final) for one in spool.left()] == [("result", True), ("result", False)]
    if not is_taken:
        monkeypatch.setattr(Path, "replace", _no_room)
    may_end.set()
    putting.join()
    bodies = []
    while (entry := spool.first()) is not None:
        bodies.append(spool.read(entry))
        spool.delivered(entry)
    assert bodies == [b"final", b"partial"]
    spool.close()


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@hypothesis_settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), n_threads=st.integers(2, 5))
def test_whatever_the_disk_does_messages_of_a_kind_are_sent_in_the_order_of_their_numbers(seed: int, n_threads: int) -> None:
    chance = random.Random(seed)
    delays = [chance.choice([0, 0, 0.001, 0.004]) for _ in range(100)]

    def sync(_: int) -> None:
        block(delays[chance.randrange(100)])

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        spool = Spool(Path(folder), "p", max_bytes=10**6)

        def put(name: int) -> None:
            for number in range(4):
                if name == 0:
                    spool.put("failure", b"why")
                else:
                    spool.put("result", b"%d %d" % (name, number), is_final=name == 1)

        threads = [threading.Thread(target=put, args=(name,)) for name in range(n_threads)]
        for thread in threads:
            thread.start()
        sent: dict[str, list[int]] = {"result": [], "failure": []}
        finals = []
        while any(thread.is_alive() for thread in threads) or not spool.is_empty():
            entry = spool.first()
            if entry is not None:
                sent[entry.kind].append(entry.sequence)
                finals += [spool.read(entry)] if entry.is_final else []
                spool.delivered(entry)
        assert all(numbers == sorted(set(numbers)) for numbers in sent.values())
        assert sum(map(len, sent.values())) == 4 * n_threads
        assert finals == [b"1 %d" % number for number in range(4)]  # the last one that was handed over is the last one sent
        spool.close()


def test_a_message_whose_file_is_gone_is_named_and_takes_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    spool.put("result", b"x" * (LIMIT // 2), is_final=True)
    spool.put("failure", b"why")
    spool.put_progress(b"{}")
    spool.save_progress()
    for path in tmp_path.glob("*.message"):
        path.unlink()
    while (entry := spool.first()) is not None:
        assert spool.read(entry) is None
    gone = [(one.kind, one.is_final, one.path, one.why) for one in spool.left()]
    assert gone == [("result", True, None, "gone from disk"), ("failure", False, None, "gone from disk")]
    spool.put("result", b"x" * (LIMIT - 1))
    spool.close()


def test_a_message_that_is_gone_when_it_is_refused_is_named_without_a_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    spool.put("result", b"{}", is_final=True)
    [path] = tmp_path.glob("*.message")
    path.unlink()
    entry = spool.first()
    assert entry is not None
    spool.reject(entry, "because")
    assert [(one.path, one.why) for one in spool.left()] == [(None, "because")]
    spool.close()


def test_when_the_spool_is_full_a_partial_result_takes_the_place_of_older_ones_and_of_nothing_else(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    spool.put("result", b"f" * 1000, is_final=True)
    spool.put("failure", b"why")
    for number in range(6):
        spool.put("result", b"%d" % number * 1000)
    in_flight = spool.first(["result"])
    assert in_flight is not None
    waiting = [(one.kind, one.is_final, one.sequence) for one in spool.left()]
    assert waiting == [("result", True, 0), ("failure", False, 1), ("result", False, 6), ("result", False, 7)]
    with pytest.raises(SpoolFull):
        spool.put("result", b"x" * LIMIT)
    assert [(one.kind, one.is_final, one.sequence) for one in spool.left()] == waiting
    spool.close()


def _first_version(folder: Path, order: int, kind: str, plain: bytes, **changes: object) -> Path:
    """A file as the first version of the library wrote it."""
    header = {"kind": kind, "producer": "old", "sequence": 3, "is_final": kind == "result", "crc32": zlib.crc32(plain)}
    path = folder / f"{order:020d}-{kind}.message"
    path.write_bytes(json.dumps({**header, **changes}).encode() + b"\n" + plain)
    return path


def test_the_spool_of_an_older_version_is_sent_first(tmp_path: Path) -> None:
    _first_version(tmp_path, time.time_ns() + 10**12, "result", b'{"a": 1}')  # its clock was ahead of ours
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    spool.put("result", b"mine")
    found = []
    while (entry := spool.first()) is not None:
        found.append((entry.producer, entry.sequence, entry.is_final, spool.read(entry)))
        spool.delivered(entry)
    assert found == [("old", 3, True, b'{"a": 1}'), ("p", 0, False, b"mine")]
    assert spool.left() == ()
    spool.close()


@pytest.mark.parametrize(
    "changes",
    [{"sequence": "3"}, {"sequence": -1}, {"producer": ""}, {"producer": 7}, {"is_final": 1}, {"more": 1}],
)
def test_a_header_that_is_json_but_not_ours_is_set_aside_and_named(tmp_path: Path, changes: dict[str, object]) -> None:
    _first_version(tmp_path, 1, "result", b"{}", **changes)
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    assert spool.first() is None
    [left] = spool.left()
    assert (left.kind, left.why) == ("result", "damaged on disk")
    assert left.path is not None
    assert left.path.exists()
    spool.close()


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), is_cut=st.booleans())
def test_a_file_with_any_damage_is_never_sent(place: int, bit: int, is_cut: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), "p", max_bytes=LIMIT)
        spool.put("result", b'{"skyscan_result":{},"is_final":true}', is_final=True)
        spool.close()
        [path] = Path(folder).glob("*.message")
        content = bytearray(path.read_bytes())
        place %= len(content)
        content[place] ^= 1 << bit
        path.write_bytes(content[:place] if is_cut else content)
        spool = Spool(Path(folder), "p", max_bytes=LIMIT)
        entry = spool.first()
        assert entry is None or spool.read(entry) is None
        assert [one.why for one in spool.left()] == ["damaged on disk"]
        spool.close()


def test_a_folder_that_could_not_be_opened_is_free_for_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_take_over", _no_room)
        with pytest.raises(SettingsError, match="No space left"):
            Spool(tmp_path, "p", max_bytes=LIMIT)
    Spool(tmp_path, "p", max_bytes=LIMIT).close()


def test_the_number_of_a_closed_file_is_not_closed_again_here_nor_in_a_child(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    spool.close()
    read, write = os.pipe()  # one of them has the number of the file that was closed
    spool.close()
    child = os.fork()
    if child == 0:
        spool.close()
        os._exit(0 if os.write(write, b"x") == 1 else 1)
    os.close(write)
    assert os.read(read, 1) == b"x"
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)


def test_a_child_keeps_no_hold_of_the_folder(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "p", max_bytes=LIMIT)
    (asks, answers), (hears, says) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        os.write(says, b"x")
        os.read(asks, 1)
        os._exit(0)
    try:
        assert os.read(hears, 1) == b"x"
        spool.close()
        Spool(tmp_path, "p", max_bytes=LIMIT).close()  # while the child lives
    finally:
        os.close(answers)
        os.waitpid(child, 0)
        for pipe in (asks, hears, says):
            os.close(pipe)


def test_a_folder_that_others_may_have_prepared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_private(tmp_path / "new")
    make_private(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(SettingsError, match="SKYSCAN_SKYDRIVER_SPOOL_DIR"):
            make_private(tmp_path / name)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(SettingsError, match="another user"):
        make_private(tmp_path / "new")
