"""Options of ``skydriver up``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to start. http_port: None for any free one. workers: maximum number of sandbox workers.

    replicas: service (of REPLICABLE_SERVICES) to its number of processes, if more than one.
    """

    data_dir: Path
    http_port: int | None = None
    workers: int = 2
    sandbox: bool = True
    replicas: Mapping[str, int] = field(default_factory=dict)
