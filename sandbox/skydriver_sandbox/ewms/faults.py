"""Misbehaviour on request: what EWMS was seen to do, and what workers can do. Source: EWMS contract 14.

Numbers of times count down as they are used; the rest holds until changed. Nothing of this outlives the process.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from skydriver_sandbox.ewms.errors import RestError
from skydriver_sandbox.worker.job import Faults as WorkerFaults


@dataclass
class Faults:
    """create_hangs, create_fails, add_hangs, add_fails: this many workflows, or batches of added workers, are stored, then never
    answered, or answered 500.
    unavailable: this many requests get 503 with Retry-After: 1. errors: 500, with nothing done. garbage: HTML with 200. drops: the
    connection is closed without an answer, with nothing done.
    slow_s: every request is answered so much later.
    submissions_fail: this many taskforces can never be submitted.
    activation_stuck: no workflow's queues become active.
    activation_race: activation moves all taskforces of its workflow, as if a stop had come in the middle of it: they run on.
    access_token_lifetime_s: of tokens issued from now on, None for the setting's.
    queue_token_lifetime_s: of queues activated from now on, None: they do not end.
    worker: for workers started from now on.
    """

    create_hangs: int = 0
    create_fails: int = 0
    add_hangs: int = 0
    add_fails: int = 0
    unavailable: int = 0
    errors: int = 0
    garbage: int = 0
    drops: int = 0
    slow_s: float = 0.0
    submissions_fail: int = 0
    activation_stuck: bool = False
    activation_race: bool = False
    access_token_lifetime_s: float | None = None
    queue_token_lifetime_s: float | None = None
    worker: WorkerFaults = field(default_factory=WorkerFaults)

    def take(self, name: str) -> bool:
        """Whether this fault strikes now; uses it up once."""
        left = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return bool(left > 0)

    def change(self, wanted: dict[str, Any]) -> None:
        """Set the named ones. Raises RestError 400 for unknown names and wrong types, and then changes nothing."""
        checked: dict[str, Any] = {}
        for name, value in wanted.items():
            match _KINDS.get(name), value:
                case "int", int() if value is not True and value is not False and value >= 0:
                    checked[name] = value
                case "bool", bool():
                    checked[name] = value
                case "float", int() | float() if not isinstance(value, bool) and value >= 0:
                    checked[name] = float(value)
                case "float | None", None | int() | float() if not isinstance(value, bool):
                    checked[name] = value
                case "WorkerFaults", dict():
                    checked[name] = self._worker(value)
                case _:
                    raise RestError(400, f"'{name}': no such fault, or not of its type")
        for name, value in checked.items():
            setattr(self, name, value)

    def _worker(self, wanted: dict[str, Any]) -> WorkerFaults:
        known = {entry.name for entry in dataclasses.fields(WorkerFaults)}
        for name, value in wanted.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise RestError(400, f"'worker.{name}': no such fault, or not a number")
        return WorkerFaults(**{name: float(value) for name, value in wanted.items()})

    def reset(self) -> None:
        """Behave well again."""
        for entry in dataclasses.fields(self):
            setattr(self, entry.name, getattr(Faults(), entry.name))

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_KINDS: dict[str, str] = {
    entry.name: "WorkerFaults" if entry.name == "worker" else getattr(entry.type, "__name__", str(entry.type))
    for entry in dataclasses.fields(Faults)
}
