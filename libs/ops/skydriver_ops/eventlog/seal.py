"""Seals: a signed Merkle root over all chain heads, kept elsewhere, so that nobody can shorten or rewrite the log unseen."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from skydriver_common.db.errors import database_faults
from skydriver_common.db.pool import Connection
from skydriver_common.model.ids import ScanId
from skydriver_ops.eventlog.chains import PAGE, ChainBreak, heads, sql

FORMAT = "skydriver-seal-1"

Head = tuple[str, int, bytes]
"""(scan_id, version, hash) of a scan's newest event."""


class SealBroken(Exception):
    """The seal itself is not what was signed, or another key signed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A checkpoint. events: in the log then; root: hex of the Merkle root over ``heads``, which are in order of scan."""

    made_at: str
    events: int
    root: str
    heads: tuple[Head, ...]
    signature: bytes

    def as_json(self) -> bytes:
        """The seal as a file. About 120 bytes per scan."""
        return orjson.dumps(
            {
                **_header(self.made_at, self.events, self.root, len(self.heads)),
                "signature": self.signature.hex(),
                "heads": [[scan_id, version, digest.hex()] for scan_id, version, digest in self.heads],
            },
            option=orjson.OPT_INDENT_2 if len(self.heads) < 1000 else 0,
        )


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962, section 2.1; leaves and nodes are told apart by their first byte."""
    stack: list[tuple[int, bytes]] = []
    for merkle_leaf in leaves:
        level, node = 0, sha256(b"\x00" + merkle_leaf).digest()
        while stack and stack[-1][0] == level:
            node = sha256(b"\x01" + stack.pop()[1] + node).digest()
            level += 1
        stack.append((level, node))
    if not stack:
        return sha256(b"").digest()
    node = stack.pop()[1]
    while stack:
        node = sha256(b"\x01" + stack.pop()[1] + node).digest()
    return node


async def make_seal(
    connection: Connection, key: Ed25519PrivateKey, *, on_progress: Callable[[int], None] = lambda _: None
) -> Seal:
    """Seal the log as it is now, in one snapshot. told: called with the number of scans so far. Raises TryLater."""
    found: list[Head] = []
    with database_faults():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for head in heads(connection):
                found.append(head)
                if len(found) % PAGE == 0:
                    on_progress(len(found))
    return sign(found, key, made_at=datetime.now(UTC))


def sign(found: Sequence[Head], key: Ed25519PrivateKey, *, made_at: datetime) -> Seal:
    """A seal over these heads, which are in order of scan."""
    events, root = sum(version for _, version, _ in found), merkle_root(map(merkle_leaf, found)).hex()
    header = _header(made_at.isoformat(), events, root, len(found))
    return Seal(
        made_at=made_at.isoformat(), events=events, root=root, heads=tuple(found), signature=key.sign(orjson.dumps(header))
    )


def read_seal(content: bytes, key: Ed25519PublicKey) -> Seal:
    """A seal from its file, signature and root checked. Raises SealBroken."""
    try:
        raw = orjson.loads(content)
        found = tuple((str(scan_id), int(version), bytes.fromhex(digest)) for scan_id, version, digest in raw["heads"])
        seal = Seal(
            made_at=str(raw["made_at"]), events=int(raw["events"]), root=str(raw["root"]), heads=found,
            signature=bytes.fromhex(raw["signature"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise SealBroken("not a seal file") from error
    try:
        key.verify(seal.signature, orjson.dumps(_header(seal.made_at, seal.events, seal.root, len(found))))
    except InvalidSignature:
        raise SealBroken("the signature does not match: another key, or the seal was modified") from None
    if merkle_root(map(merkle_leaf, found)).hex() != seal.root:
        raise SealBroken("the chain heads do not match the signed root")
    return seal


async def verify_against_seal(connection: Connection, seal: Seal) -> list[ChainBreak]:
    """Scans that do not hold any more what the seal says they held. Raises TryLater."""
    breaks: list[ChainBreak] = []
    for start in range(0, len(seal.heads), PAGE):
        part = seal.heads[start : start + PAGE]
        with database_faults():
            rows = sql.hashes_of(connection, scan_ids=[head[0] for head in part], versions=[head[1] for head in part])
            there = {(row["scan_id"], row["version"]): row["hash"] async for row in rows}
        for scan_id, version, digest in part:
            now = there.get((scan_id, version))
            if now != digest:
                what = "missing since the log was sealed" if now is None else "differs from the sealed event"
                breaks.append(ChainBreak(scan_id=ScanId(scan_id), version=version, position=None, what=what))
    return breaks


def merkle_leaf(head: Head) -> bytes:
    """What the Merkle tree holds of a head."""
    scan_id, version, digest = head
    return f"{scan_id}\n{version}\n".encode() + digest


def _header(made_at: str, events: int, root: str, scans: int) -> dict[str, object]:
    return {"format": FORMAT, "made_at": made_at, "events": events, "scans": scans, "root": root}
