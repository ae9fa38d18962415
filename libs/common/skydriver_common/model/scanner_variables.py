"""Every environment variable that a scanner server reads: type, unit, range, and who sets it.

The job spec and the local launcher write them (``text_of``), the gateway checks what a request wants (``refusal``). Pure.
Sources: scanner contract 1; REST contract 9.3; ``skydriver_scanner.settings`` and the sandbox's scanner for what is ours.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from skydriver_common.model.steering_variables import why_steering

TEN_YEARS_S = 10 * 365 * 86_400


class Kind(Enum):
    """How a scanner parses a variable. WHOLE: digits only, since it parses an ``int``. LEVEL: a name of a log level."""

    TEXT = auto()
    WHOLE = auto()
    NUMBER = auto()
    LEVEL = auto()


class Source(Enum):
    """Who sets a variable.

    LAUNCHER: always the launcher, so a request must not name it. SETTING: the dispatcher, from its settings or a value of its own;
    a request may change it. SCANNER: nobody but a request; else the scanner's own default holds.
    """

    LAUNCHER = auto()
    SETTING = auto()
    SCANNER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable. least, most: of a number, both included; ``above`` excludes its bound. default: the scanner's own, None: none."""

    name: str
    kind: Kind
    source: Source
    unit: str = ""
    least: int | None = None
    above: int | None = None
    most: int | None = None
    default: str | None = None


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

SCAN_ID, PROFILE, ADDRESS = "SKYSCAN_SKYDRIVER_SCAN_ID", "SKYSCAN_EWMS_JSON", "SKYSCAN_SKYDRIVER_ADDRESS"
TOKEN = "SKYSCAN_SKYDRIVER_AUTH"  # noqa: S105  (the variable, not its value)
BUS_URL, SPOOL_DIR = "SKYSCAN_SKYDRIVER_BUS_URL", "SKYSCAN_SKYDRIVER_SPOOL_DIR"
UPLOAD = "SKYSCAN_STARTUP_UPLOAD_JSON"
PROGRESS_INTERVAL, RESULT_INTERVAL = "SKYSCAN_PROGRESS_INTERVAL_SEC", "SKYSCAN_RESULT_INTERVAL_SEC"
KILL_SWITCH_INTERVAL, MQ_TIMEOUT = "SKYSCAN_KILL_SWITCH_CHECK_INTERVAL", "SKYSCAN_MQ_TIMEOUT_FROM_CLIENTS"
LOG, LOG_THIRD_PARTY = "SKYSCAN_LOG", "SKYSCAN_LOG_THIRD_PARTY"
PILOT_LOG, MQ_LOG = "SKYSCAN_EWMS_PILOT_LOG", "SKYSCAN_MQ_CLIENT_LOG"


def _ours(name: str, default: str | None = None) -> Variable:
    return Variable(name=name, kind=Kind.TEXT, source=Source.LAUNCHER, default=default)


def _seconds(name: str, source: Source, default: str) -> Variable:
    return Variable(name=name, kind=Kind.WHOLE, source=source, unit="s", least=1, most=TEN_YEARS_S, default=default)


def _number(name: str, *, most: int, unit: str = "", default: str | None = None) -> Variable:
    return Variable(name=name, kind=Kind.NUMBER, source=Source.SCANNER, unit=unit, above=0, most=most, default=default)


def _count(name: str, most: int, default: str) -> Variable:
    return Variable(name=name, kind=Kind.WHOLE, source=Source.SCANNER, least=1, most=most, default=default)


def _level(name: str, default: str) -> Variable:
    return Variable(name=name, kind=Kind.LEVEL, source=Source.SETTING, default=default)


_OF_THE_CONTRACT = (
    _ours(SCAN_ID),
    _ours(PROFILE),
    _ours(ADDRESS, default=""),
    _ours(TOKEN, default=""),
    _seconds(PROGRESS_INTERVAL, Source.SETTING, "60"),
    _seconds(RESULT_INTERVAL, Source.SETTING, "120"),
    _seconds(KILL_SWITCH_INTERVAL, Source.SETTING, "300"),
    _seconds(MQ_TIMEOUT, Source.SETTING, "7200"),
    _count("SKYSCAN_MQ_PREFETCH_FROM_CLIENTS", most=65_535, default="300"),
    _number("SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_RATIO", most=1, default="0.25"),
    _count("SKYSCAN_PROGRESS_RUNTIME_PREDICTION_WINDOW_MIN", most=2**31 - 1, default="400"),
    _level(LOG, "INFO"),
    _level(LOG_THIRD_PARTY, "WARNING"),
    _level(PILOT_LOG, "INFO"),
    _level(MQ_LOG, "INFO"),
)
_OF_OURS = (
    _ours(BUS_URL, default=""),
    _ours(SPOOL_DIR),
    _ours(UPLOAD),
    _number("SKYSCAN_SKYDRIVER_SPOOL_MAX_BYTES", most=2**53, unit="bytes", default="268435456"),
    _number("SKYSCAN_SKYDRIVER_BUS_PATIENCE_SEC", most=TEN_YEARS_S, unit="s", default="20"),
    _number("SKYSCAN_EWMS_JSON_TIMEOUT_SEC", most=TEN_YEARS_S, unit="s", default="3600"),
)
_DIRECTORIES = {
    "HOME": "",
    "TMPDIR": "",
    "XDG_CACHE_HOME": "/.cache",
    "XDG_CONFIG_HOME": "/.config",
    "XDG_DATA_HOME": "/.local/share",
    "XDG_STATE_HOME": "/.local/state",
    "XDG_RUNTIME_DIR": "",
    "MPLCONFIGDIR": "/.config/matplotlib",
    "EWMS_TASK_DATA_HUB_DIR": "",
}
"""Where programs write, relative to the working directory. Those that nobody creates before writing are that directory itself."""

CONTRACT: tuple[str, ...] = tuple(variable.name for variable in _OF_THE_CONTRACT)
"""The names that the scanner contract lists, in its order."""
VARIABLES: dict[str, Variable] = {
    variable.name: variable for variable in (*_OF_THE_CONTRACT, *_OF_OURS, *(_ours(name) for name in _DIRECTORIES))
}
RESERVED: frozenset[str] = frozenset(name for name, variable in VARIABLES.items() if variable.source is Source.LAUNCHER)
"""What a request must not set. Source: REST contract 9.3, and the directories."""


def directories(working_dir: str) -> dict[str, str]:
    """Return the variables that keep a scanner's files inside its working directory, which must be writable. working_dir: absolute."""
    return {name: working_dir + below for name, below in _DIRECTORIES.items()}


def text_of(value: Any) -> str:
    """Return the text form of a request's value. Source: REST contract 9.3."""
    return value if isinstance(value, str) else str(value)


def refusal(name: str, value: Any) -> str | None:
    """Return why a scanner would not start with this value, or None.

    value: a text, a boolean, a number, or None for not set. Unknown variables have no form.
    """
    variable = VARIABLES.get(name)
    if variable is None or value is None:
        return None
    text = text_of(value)
    if variable.kind is Kind.LEVEL:
        return None if text.upper() in LEVELS else f"must be one of {', '.join(LEVELS)}"
    if variable.kind is Kind.TEXT:
        return None
    form = r"[0-9]{1,18}" if variable.kind is Kind.WHOLE else r"[0-9]{1,18}(\.[0-9]{1,18})?"
    if re.fullmatch(form, text, re.ASCII) is None or not _is_within(variable, float(text)):
        return f"must be a {'whole ' if variable.kind is Kind.WHOLE else ''}number {_range(variable)}"
    return None


def left_out(wanted: Iterable[str]) -> list[str]:
    """Return the variables of a stored request that its scanner does not get: the launcher sets them, or they steer too much."""
    return sorted(name for name in wanted if name in RESERVED or why_steering(name) is not None)


def _is_within(variable: Variable, number: float) -> bool:
    return (
        (variable.least is None or number >= variable.least)
        and (variable.above is None or number > variable.above)
        and (variable.most is None or number <= variable.most)
    )


def _range(variable: Variable) -> str:
    lower = f"from {variable.least}" if variable.least is not None else f"greater than {variable.above} and"
    unit = f" {variable.unit}" if variable.unit else ""
    return f"{lower} {'to' if variable.least is not None else 'at most'} {variable.most}{unit}"
