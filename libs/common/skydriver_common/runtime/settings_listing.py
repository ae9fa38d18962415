"""The settings of a service as plain data: what ``python -m skydriver_<service> settings`` prints."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from skydriver_common.runtime.settings import PREFIX, ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDescription:
    """One variable. default: as text, None if it is required. meaning: empty when the next one's covers it."""

    name: str
    default: str | None
    meaning: str


def describe_settings(settings: type[ServiceSettings]) -> Iterator[SettingDescription]:
    """Yield every setting of the class, in the order of its fields."""
    for name, field in settings.model_fields.items():
        meaning = " ".join((field.description or "").replace("``", "`").split())
        yield SettingDescription(name=f"{PREFIX}{name.upper()}", default=_default(field), meaning=meaning)


def print_settings(settings: type[ServiceSettings]) -> None:
    """Print one line of JSON: ``settings``, as `describe_settings` gives them, and ``names``, all variables that are read."""
    listing = {
        "settings": [asdict(each) for each in describe_settings(settings)],
        "names": sorted(settings.names()),
    }
    sys.stdout.write(json.dumps(listing) + "\n")


def _default(field: FieldInfo) -> str | None:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    return "" if value is None else json.dumps(value) if isinstance(value, dict | list | tuple | bool) else str(value)
