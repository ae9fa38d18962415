"""An exported log as a file: zstd of lines of JSON, readable and provable without any database.

First a line that names the format; then events in the order of their commits, and after each the blobs that it refers to, where
none before it did; last a manifest with counts and hashes. Shapes:

* ``{"format": "skydriver-export-1", "until": …, "made_at": …}``
* ``{"prev_hash": hex, "hash": hex, "position": …, …, "data": …}``: the event as the bus has it, its data byte for byte as stored
* ``{"blob": digest, "encoding": …, "size": …, "body": base64}``, ``{"missing_blob": digest}``
* ``{"manifest": {"events", "scans", "blobs", "missing_blobs", "last_position", "heads_root", "sha256"}}``: sha256 is that of all
  bytes before this line, heads_root the Merkle root over the chains' newest links, as in a seal
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import zstandard

from skydriver_common.log.read import LoggedEvent
from skydriver_common.model import event_codec
from skydriver_common.model.events import SYSTEM_CHAIN
from skydriver_common.model.ids import ScanId, digest_of
from skydriver_ops.eventlog.chains import ChainBreak, find_break
from skydriver_ops.eventlog.seal import merkle_leaf, merkle_root
from skydriver_ops.eventlog.selection import START, ChainedEvent

FORMAT = "skydriver-export-1"

_DATA = b',"data":'
"""Stands in no string of JSON, where a quotation mark has a backslash before it: what follows is the event's data."""
_COMPACTED_MARK = b'null,"data_sha256":"'


class ArchiveBroken(Exception):
    """The file is no whole export, or was changed since."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A payload as it is stored."""

    digest: str
    encoding: str
    size: int
    body: bytes


def event_line(one: ChainedEvent) -> bytes:
    """An event as a line."""
    return b'{"prev_hash":"%b","hash":"%b",%b\n' % (
        one.prev_hash.hex().encode(),
        one.hash.hex().encode(),
        one.event.as_json()[1:],
    )


def blob_line(blob: Blob) -> bytes:
    """A blob as a line."""
    head = {"blob": blob.digest, "encoding": blob.encoding, "size": blob.size, "body": base64.b64encode(blob.body).decode()}
    return orjson.dumps(head) + b"\n"


def blobs_of(event: LoggedEvent) -> list[str]:
    """The digests of the blobs that an event refers to."""
    if event.type not in ("scan.requested", "scan.result-received"):
        return []
    try:
        data: dict[str, Any] = event_codec.decode(event.data)
    except ValueError:  # somebody altered it: `verify` tells of that, and the rest of the past is worth carrying away
        return []
    return [str(data[name]) for name in ("event_digest", "digest") if name in data]


@dataclass(slots=True)
class ArchiveTotals:
    """Counts and hashes, the same on both sides. Holds some 200 bytes per scan. breaks: the first of each scan, once ``finish``ed.

    Links of a scan may come out of order, as earlier builds wrote them: those that come too early are kept until it is their turn.
    """

    events: int = 0
    blobs: int = 0
    missing_blobs: int = 0
    last_position: int = 0
    heads: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    breaks: list[ChainBreak] = field(default_factory=list)
    _early: dict[str, dict[int, ChainedEvent]] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    def event(self, one: ChainedEvent) -> None:
        """Count an event, and check that it continues its scan's chain."""
        self.events += 1
        self.last_position = max(self.last_position, one.event.position)
        scan_id, next_one = one.event.scan_id, self.heads.get(one.event.scan_id, (0, b""))[0] + 1
        if one.event.version > next_one and scan_id not in self._broken:
            self._early.setdefault(scan_id, {})[one.event.version] = one
            return
        self._take(one)
        while (early := self._early.get(scan_id)) and (found := early.pop(self.heads[scan_id][0] + 1, None)) is not None:
            self._take(found)

    def finish(self) -> None:
        """No more events will come: what is missing now is missing."""
        for early in self._early.values():
            for one in (early[version] for version in sorted(early)):
                self._take(one)
        self._early.clear()

    def _take(self, one: ChainedEvent) -> None:
        scan_id = one.event.scan_id
        found = find_break(one, *self.heads.get(scan_id, (0, event_codec.GENESIS)))
        if found is not None and scan_id not in self._broken:
            self._broken.add(scan_id)
            self.breaks.append(found)
        self.heads[scan_id] = (one.event.version, one.hash)

    def manifest(self, digest: str) -> dict[str, Any]:
        """The last line's content. digest: hex SHA-256 of all bytes before it."""
        self.finish()
        heads = sorted((scan_id, version, head) for scan_id, (version, head) in self.heads.items())
        return {
            "events": self.events, "scans": len(self.heads) - (SYSTEM_CHAIN in self.heads), "blobs": self.blobs,
            "missing_blobs": self.missing_blobs, "last_position": self.last_position,
            "heads_root": merkle_root(map(merkle_leaf, heads)).hex(), "sha256": digest,
        }  # fmt: skip


class Archive:
    """Reads an export. ``tally`` and ``manifest`` are complete when ``entries`` has come to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tally = ArchiveTotals()
        self.manifest: dict[str, Any] = {}
        self.bytes_read = 0

    def entries(self) -> Iterator[ChainedEvent | Blob]:
        """Events and blobs in order, each checked against its hash; one in memory at a time.

        Raises ArchiveBroken (in the end also when counts, order or hashes are not those of the manifest), OSError.
        """
        digest = sha256()
        for number, line in enumerate(self._lines()):
            if self.manifest:
                raise ArchiveBroken("unexpected data after the manifest")
            if number == 0:
                if _loads(line).get("format") != FORMAT:
                    raise ArchiveBroken("not a SkyDriver export, or one of a newer release")
            elif line.startswith(b'{"manifest":'):
                self.manifest = _loads(line)["manifest"]
                continue
            else:
                yield from self._entry(line)
            digest.update(line)
        if not self.manifest:
            raise ArchiveBroken("file is truncated")
        if self.manifest != self.tally.manifest(digest.hexdigest()):
            raise ArchiveBroken("content does not match the manifest")

    def _entry(self, line: bytes) -> Iterator[ChainedEvent | Blob]:
        if line.startswith(b'{"prev_hash":'):
            one = _link(line)
            self.tally.event(one)
            yield one
        elif line.startswith(b'{"blob":'):
            blob = _blob(line)
            self.tally.blobs += 1
            yield blob
        elif line.startswith(b'{"missing_blob":'):
            self.tally.missing_blobs += 1
        else:
            raise ArchiveBroken("unexpected line")

    def _lines(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as unpacked:
                rest = b""
                pieces: list[bytes] = []
                while chunk := unpacked.read(1 << 20):
                    self.bytes_read = file.tell()
                    first, newline, rest = chunk.partition(b"\n")
                    pieces.append(first)
                    while newline:
                        yield b"".join((*pieces, b"\n"))
                        first, newline, rest = rest.partition(b"\n")
                        pieces = [first]
                if any(pieces):
                    raise ArchiveBroken("file is truncated")
        except zstandard.ZstdError as error:
            raise ArchiveBroken("not a zstd file, or damaged") from error


def check(path: Path, *, sealed: Mapping[tuple[str, int], bytes] | None = None, on_progress: Any = lambda _: None) -> Archive:
    """Read an export through and check all that can be checked without a database; breaks are in its tally.

    sealed: (scan id, version) to the hash that a seal says it had. told: called with the number of events. Blocking.
    Raises ArchiveBroken, OSError.
    """
    archive = Archive(path)
    missing = dict(sealed or {})
    for entry in archive.entries():
        if not isinstance(entry, ChainedEvent):
            continue
        key = (entry.event.scan_id, entry.event.version)
        if key in missing and missing.pop(key) != entry.hash:
            archive.tally.breaks.append(
                ChainBreak(scan_id=key[0], version=key[1], position=entry.event.position, what="differs from the sealed event")
            )
        if archive.tally.events % 1000 == 0:
            on_progress(archive.tally.events)
    archive.tally.breaks += [
        ChainBreak(scan_id=ScanId(scan_id), version=version, position=None, what="missing since the log was sealed")
        for scan_id, version in missing
    ]
    return archive


def _link(line: bytes) -> ChainedEvent:
    head, marker, rest = line.rstrip(b"\n").partition(_DATA)
    try:
        if not marker or not rest.endswith(b"}"):
            raise ValueError
        is_compacted = rest.startswith(_COMPACTED_MARK)
        data = (
            event_codec.COMPACTED_MARK + bytes.fromhex(rest[len(_COMPACTED_MARK) : -2].decode()) if is_compacted else rest[:-1]
        )
        values = orjson.loads(head + b"}")
        event = LoggedEvent(
            position=values["position"], event_id=UUID(values["event_id"]), scan_id=values["scan_id"], version=values["version"],
            type=values["type"], schema_version=values["schema_version"], recorded_at=datetime.fromisoformat(values["recorded_at"]),
            actor=values["actor"], command_id=values["command_id"], correlation_id=values["correlation_id"], data=data,
        )  # fmt: skip
        return ChainedEvent(event, START.xid, bytes.fromhex(values["prev_hash"]), bytes.fromhex(values["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveBroken("an event cannot be decoded") from error


def _blob(line: bytes) -> Blob:
    try:
        values = orjson.loads(line)
        blob = Blob(values["blob"], values["encoding"], int(values["size"]), base64.b64decode(values["body"]))
        content = blob.body
        if blob.encoding == "zstd":
            content = zstandard.ZstdDecompressor().decompress(blob.body, max_output_size=blob.size)
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise ArchiveBroken("a blob cannot be decompressed") from error
    if digest_of(content) != blob.digest or len(content) != blob.size:
        raise ArchiveBroken(f"blob {blob.digest} does not match its digest")
    return blob


def _loads(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except ValueError as error:
        raise ArchiveBroken("a line is not valid JSON") from error
    if not isinstance(value, dict):
        raise ArchiveBroken("a line is not a JSON object")
    return value
