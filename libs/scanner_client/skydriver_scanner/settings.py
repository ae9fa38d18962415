"""Settings of a session, from the environment that the launcher sets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from skydriver_scanner.errors import SettingsError
from skydriver_scanner.protocol import scan_id_of

PREFIX = "SKYSCAN_SKYDRIVER_"
_HEARTBEAT_S = 20
"""So that a connection that died silently is noticed, and stop signals arrive on a new one."""


def default_spool_dir() -> Path:
    """Return where messages wait unless another directory is set. Every user of the machine may write beside it."""
    return Path(tempfile.gettempdir()) / "skydriver-spool"


@dataclass(frozen=True)
class SessionSettings:
    """The settings of one session. Seconds are floats. token and bus_url are secrets.

    bus_url: None: there is no bus, everything goes over REST. Without user and password in it the scan's token is the login.
    spool_dir: messages of this scan wait in a directory of its own below it.
    bus_patience_s: how long a message waits for the bus before it goes over REST.
    status_interval_s: how often the status is polled over REST, beside the pushed stop signal.
    """

    scan_id: str
    address: str
    token: str = field(repr=False)
    bus_url: str | None = field(default=None, repr=False)
    spool_dir: Path = field(default_factory=default_spool_dir)
    spool_max_bytes: int = 256 * 1024 * 1024
    bus_patience_s: float = 20.0
    status_interval_s: float = 300.0
    close_patience_s: float = 3600.0

    @property
    def folder(self) -> Path:
        """The directory in which the messages of this scan wait."""
        return self.spool_dir / self.scan_id

    @property
    def login_url(self) -> str | None:
        """The URL of the bus with a login. A secret."""
        if self.bus_url is None:
            return None
        parts = urlsplit(self.bus_url)
        if "heartbeat=" not in parts.query:
            parts = parts._replace(query="&".join(filter(None, (parts.query, f"heartbeat={_HEARTBEAT_S}"))))
        if parts.username:
            return parts.geturl()
        login = f"scan-{quote(self.scan_id, safe='')}:{quote(self.token, safe='')}"
        return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> SessionSettings:
        """From the variables ``SKYSCAN_SKYDRIVER_*``. Raises SettingsError that names each one that is wrong."""
        env = os.environ if environment is None else environment
        problems: list[str] = []

        def text(name: str) -> str:
            value = env.get(PREFIX + name, "").strip()
            if not value:
                problems.append(f"{PREFIX}{name}: required")
            return value

        def seconds(name: str, default: float) -> float:
            raw = env.get(name, "").strip()
            try:
                value = float(raw) if raw else default
            except ValueError:
                value = 0.0
            if not 0 < value < float("inf"):
                problems.append(f"{name}: must be a number above 0")
            return value

        scan_id, address, token = text("SCAN_ID"), text("ADDRESS"), text("AUTH")
        if scan_id and not scan_id_of(scan_id):
            problems.append(f"{PREFIX}SCAN_ID: must be 1 to 64 letters, digits, - or _")
        if address and urlsplit(address).scheme not in ("http", "https"):
            problems.append(f"{PREFIX}ADDRESS: must be an http or https address")
        bus_url = env.get(PREFIX + "BUS_URL", "").strip() or None
        if bus_url is not None and not _is_bus_url(bus_url):
            problems.append(f"{PREFIX}BUS_URL: must be an amqp or amqps address")
        spool = env.get(PREFIX + "SPOOL_DIR", "").strip()
        max_bytes = seconds(PREFIX + "SPOOL_MAX_BYTES", cls.spool_max_bytes)
        patience = seconds(PREFIX + "BUS_PATIENCE_SEC", cls.bus_patience_s)
        interval = seconds("SKYSCAN_KILL_SWITCH_CHECK_INTERVAL", cls.status_interval_s)
        if problems:
            raise SettingsError("; ".join(problems))
        return cls(
            scan_id=scan_id,
            address=address,
            token=token.removeprefix("Bearer "),
            spool_dir=Path(spool) if spool else default_spool_dir(),
            bus_url=bus_url,
            spool_max_bytes=int(max_bytes),
            bus_patience_s=patience,
            status_interval_s=interval,
        )


def _is_bus_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("amqp", "amqps") and bool(unquote(parts.hostname or "")) and parts.port != 0
    except ValueError:
        return False
