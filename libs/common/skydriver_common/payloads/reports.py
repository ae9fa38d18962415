"""What scanners report, checked: progress, metadata, skymaps. One judgement for both doors. Source: REST contract 4.10, 4.12."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, WithJsonSchema

from skydriver_common.payloads.field_errors import FieldError, InvalidBody, expected, field_errors_of
from skydriver_common.payloads.jsonbody import Body, read_object

LARGEST_INTEGER = 2**63 - 1
_SKYMAP = "skyscan_result"


def integer(value: Any) -> int:
    """A JSON number without fractional part; booleans are not numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST_INTEGER:
        raise expected("must be an integer")
    return value


def number(value: Any) -> int | float:
    """A JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise expected("must be a number")
    return value


def boolean(value: Any) -> bool:
    """A JSON boolean; texts and numbers do not count."""
    if not isinstance(value, bool):
        raise expected("must be true or false")
    return value


def text(value: Any) -> str:
    """A text, possibly empty."""
    if not isinstance(value, str):
        raise expected("must be a string")
    return value


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object, free-form."""
    if not isinstance(value, dict):
        raise expected("must be a JSON object")
    return value


def fraction(value: Any) -> int | float:
    """A number from 0 to 1."""
    if not 0.0 <= number(value) <= 1.0:
        raise expected("must be a number from 0 to 1")
    return number(value)


INTEGER_SCHEMA = {"type": "integer", "minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER}
Integer = Annotated[int, PlainValidator(integer), WithJsonSchema(INTEGER_SCHEMA)]
Number = Annotated[int | float, PlainValidator(number), WithJsonSchema({"type": "number"})]
Boolean = Annotated[bool, PlainValidator(boolean), WithJsonSchema({"type": "boolean"})]
Text = Annotated[str, PlainValidator(text), WithJsonSchema({"type": "string"})]
JsonObject = Annotated[dict[str, Any], PlainValidator(json_object), WithJsonSchema({"type": "object"})]
Fraction = Annotated[int | float, PlainValidator(fraction), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ProcessingStats(_Tolerant):
    """How the reconstruction goes; unknown keys are dropped. Source: REST contract 5.1.2."""

    start: JsonObject
    runtime: JsonObject
    rate: JsonObject = {}
    end: Text = ""
    finished: Boolean = False
    predictions: JsonObject = {}


class Progress(_Tolerant):
    """How far the scan is; unknown keys are dropped. Source: REST contract 5.1.2."""

    summary: Text
    epilogue: Text
    tallies: JsonObject
    processing_stats: ProcessingStats
    predictive_scanning_threshold: Fraction
    last_updated: Text
    start: Integer | None = None
    end: Integer | None = None


class EventMetadata(_Tolerant):
    """What the event is; unknown keys are dropped. Source: REST contract 5.1.1."""

    run_id: Integer
    event_id: Integer
    event_type: Text | None
    mjd: Number
    is_real_event: Boolean


class PatchBody(BaseModel):
    """``PATCH /scan/{id}/manifest``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    progress: Progress | None = None
    event_metadata: EventMetadata | None = None
    scan_metadata: JsonObject = {}


class TolerantPatchBody(_Tolerant):
    """``progress.<scan_id>`` on the bus: the same; fields that are not known are ignored, as the scanner protocol wants it."""

    progress: Progress | None = None
    event_metadata: EventMetadata | None = None
    scan_metadata: JsonObject = {}


class ResultBody(BaseModel):
    """``PUT /scan/{id}/result``: for the description only; ``split_result`` reads it without touching the skymap."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skyscan_result: JsonObject
    is_final: Boolean


class _FinalBody(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    is_final: Boolean


class _TolerantFinalBody(_Tolerant):
    is_final: Boolean


class ParsedPatch:
    """A checked report, as plain data with defaults filled in; None and ``{}``: leave alone."""

    __slots__ = ("event_metadata", "progress", "scan_metadata")

    def __init__(self, body: PatchBody | TolerantPatchBody) -> None:
        self.progress = _plain(body.progress) if body.progress else None
        self.event_metadata = _plain(body.event_metadata) if body.event_metadata else None
        self.scan_metadata = body.scan_metadata


def _plain(model: BaseModel) -> dict[str, Any]:
    """A model as plain data. What is free-form is taken over, not copied as ``model_dump`` would: it belongs to nobody else."""
    return {name: _plain(value) if isinstance(value, BaseModel) else value for name, value in model.__dict__.items()}


def split_result(raw: bytes, *, tolerant: bool = False) -> tuple[bytes, bool]:
    """The body of a result: the skymap's own bytes, untouched, and whether it is final. Source: REST contract 4.12.

    tolerant: fields that are not known are ignored, as the scanner protocol wants it. Raises InvalidBody.
    """
    body = read_object(raw, payloads=[_SKYMAP])
    problems = list(body.problems)
    skymap = body.payloads.get(_SKYMAP)
    if skymap is None:
        problems.append(FieldError(_SKYMAP, "is required"))
    elif not skymap.startswith(b"{"):
        problems.append(FieldError(_SKYMAP, "must be a JSON object"))
    model: type[_FinalBody | _TolerantFinalBody] = _TolerantFinalBody if tolerant else _FinalBody
    parsed = checked(model, body, problems)
    if problems or parsed is None or skymap is None:
        raise InvalidBody(problems)
    return skymap, parsed.is_final


M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], body: Body, problems: list[FieldError], sent_names: Mapping[str, str] | None = None) -> M | None:
    """The model, or None with its problems added; of members that have problems already, no more is said.

    sent_names: field to the name it was sent under, where that is another.
    """
    skipped = {problem.path.partition(".")[0] for problem in body.problems}
    names = sent_names or {}
    try:
        return model.model_validate(body.values)
    except ValidationError as error:
        for problem in field_errors_of(error):
            head, dot, rest = problem.path.partition(".")
            if head not in skipped and names.get(head) not in skipped:
                problems.append(FieldError(names.get(head, head) + dot + rest, problem.message))
        return None


def is_empty_object(piece: bytes) -> bool:
    """Whether these bytes of a JSON object say ``{}``."""
    return piece.strip()[1:-1].strip() == b""
