"""Settings of the dispatcher."""

import shlex
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from skydriver_common.runtime.settings import AmqpUrl, ServiceSettings


class DispatcherSettings(ServiceSettings):
    """Where scans run, and how fast they are let go."""

    launcher: Literal["local"] = "local"
    """Where scanner servers run: ``local`` processes of this machine."""
    work_dir: Path
    """Holds one folder per scan (local launcher)."""
    scanner_command: str = ""
    """Words that start a scanner server, as a shell would split them (local launcher); empty: the sandbox's scanner."""
    public_url: str
    """Base URL at which scanners reach the REST API."""
    scan_token_key_file: Path
    """PEM private key that signs scan tokens; the gateway knows its public half."""
    auth_issuer: str = "skydriver-local"
    auth_audience: str = "skydriver"
    low_priority_interval_s: float = Field(default=300.0, ge=0)
    """Seconds between two launches of scans with a priority below 100 (REST contract 9.6); 0: no throttle."""
    max_attempts: int = Field(default=3, ge=1)
    """Launches that may fail before the scan is given up."""
    scanner_bus_url: AmqpUrl | None = None
    """Where scanners reach the bus; unset: they report over REST. Without a login in it the scan's token is the login, which needs
    the broker's OAuth 2 plugin (``docs/scanner-protocol.md``)."""
    scanner_progress_interval_s: float | None = Field(default=None, gt=0)
    scanner_result_interval_s: float | None = Field(default=None, gt=0)
    scanner_kill_switch_interval_s: float | None = Field(default=None, gt=0)
    """Forwarded to scanner servers; unset: the scanner's own defaults (60 s, 120 s, 300 s)."""

    @field_validator("scanner_command")
    @classmethod
    def _can_be_split(cls, text: str) -> str:
        shlex.split(text)
        return text

    @property
    def scanner_words(self) -> tuple[str, ...]:
        """The command as words; none: the launcher's own."""
        return tuple(shlex.split(self.scanner_command))

    @property
    def low_priority_interval(self) -> timedelta:
        return timedelta(seconds=self.low_priority_interval_s)
