"""Parse a message of the scanners' exchange: to a report, or to its rejection. Pure. Format: ``docs/reference/scanner-protocol.md``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from skydriver_common.model.commands import PatchManifest
from skydriver_common.model.event_codec import may_hold_long_integers
from skydriver_common.model.ids import ScanId
from skydriver_common.payloads.field_errors import FieldError, InvalidBody
from skydriver_common.payloads.jsonbody import read_object
from skydriver_common.payloads.reports import (
    ParsedPatch,
    TolerantPatchBody,
    checked,
    is_empty_object,
    split_result,
)
from skydriver_progress.reports import ReportCode, ReportFailure, ReportRejection, ScannerReport
from skydriver_scanner import protocol

_SAFE_BRACKETS = 150
"""A body with fewer brackets cannot be nested too deeply for the fast parser."""


@dataclass(frozen=True, slots=True)
class Skymap:
    """A result as it was sent: the skymap's own bytes, to be stored before anything is decided."""

    scan_id: ScanId
    content: bytes = field(repr=False)
    is_final: bool
    producer: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message whose headers are accepted. plain: its content, decompressed, not parsed."""

    kind: str
    scan_id: ScanId
    producer: str
    sequence: int
    plain: bytes = field(repr=False)
    token: str = field(repr=False)


def max_wire_bytes(key: str) -> int:
    """Return the size limit, as sent, of a message with this routing key."""
    return protocol.limits(key.partition(".")[0])[0]


def addressed_to(key: str) -> tuple[str, ScanId | None]:
    """Return kind and scan id of a routing key, as far as they can be read, also of a message that is rejected."""
    kind, _, scan_id = key.partition(".")
    found = protocol.scan_id_of(scan_id)
    return (kind if kind in protocol.KINDS else "unknown"), None if found is None else ScanId(found)


def open_envelope(
    key: str, headers: Mapping[str, Any], body: bytes, content_encoding: str | None
) -> Envelope | ReportRejection:
    """Check the headers and decompress the body. Never raises."""
    try:
        unwrapped = protocol.unwrap(key, headers, body, content_encoding=content_encoding)
    except protocol.MessageTooLarge as error:
        return ReportRejection(ReportCode.TOO_LARGE, error.reason)
    except protocol.MessageRejected as error:
        return ReportRejection(ReportCode.MALFORMED, error.reason)
    return Envelope(
        unwrapped.kind, ScanId(unwrapped.scan_id), unwrapped.producer, unwrapped.sequence, unwrapped.plain, unwrapped.token
    )


def too_large(key: str) -> ReportRejection:
    """Return the rejection of a body beyond the limit of its kind."""
    return ReportRejection(ReportCode.TOO_LARGE, f"the body is larger than {max_wire_bytes(key)} bytes: send it over REST")


def parse(envelope: Envelope) -> ScannerReport | Skymap | ReportRejection | None:
    """Parse the content of a message. None: it has none (the first, empty skymaps of a scan). Never raises."""
    try:
        match envelope.kind:
            case protocol.PROGRESS:
                return _parse_progress(envelope)
            case protocol.RESULT:
                return _parse_result(envelope)
            case _:
                return _parse_failure(envelope)
    except InvalidBody as error:
        return ReportRejection(ReportCode.MALFORMED, error.reason)
    except protocol.MessageRejected as error:
        return ReportRejection(ReportCode.MALFORMED, error.reason)
    except RecursionError:
        return ReportRejection(ReportCode.MALFORMED, "the body is nested too deeply")


def _parse_progress(envelope: Envelope) -> PatchManifest:
    patch = _parse_fast(envelope.plain) or _parse_thoroughly(envelope.plain)
    parsed = ParsedPatch(patch)
    return PatchManifest(
        scan_id=envelope.scan_id,
        progress=parsed.progress,
        event_metadata=parsed.event_metadata,
        scan_metadata=parsed.scan_metadata,
        producer=envelope.producer,
        sequence=envelope.sequence,
    )


def _parse_fast(plain: bytes) -> TolerantPatchBody | None:
    """Return the report, or None if anything about it is unusual: the thorough reader then says what."""
    if b"\\u0000" in plain or plain.count(b"{") + plain.count(b"[") > _SAFE_BRACKETS or may_hold_long_integers(plain):
        return None
    try:
        return TolerantPatchBody.model_validate(orjson.loads(plain))
    except (orjson.JSONDecodeError, ValidationError):
        return None


def _parse_thoroughly(plain: bytes) -> TolerantPatchBody:
    """Return the report, read as the REST gateway reads it. Raises InvalidBody with every problem."""
    body = read_object(plain)
    problems: list[FieldError] = list(body.problems)
    patch = checked(TolerantPatchBody, body, problems)
    if problems or patch is None:
        raise InvalidBody(problems)
    return patch


def _parse_result(envelope: Envelope) -> Skymap | None:
    skymap, is_final = split_result(envelope.plain, tolerant=True)
    if is_empty_object(skymap):
        return None
    return Skymap(envelope.scan_id, skymap, is_final, envelope.producer, envelope.sequence)


def _parse_failure(envelope: Envelope) -> ReportFailure:
    body = read_object(envelope.plain)
    if body.problems:
        raise InvalidBody(body.problems)
    protocol.check_content(protocol.FAILURE, body.values)
    return ReportFailure(
        scan_id=envelope.scan_id,
        reason=body.values["reason"],
        log_tail=body.values.get("log_tail", ""),
        producer=envelope.producer,
        sequence=envelope.sequence,
    )
