"""Settings of the progress service."""

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from skydriver_common.model import scan_tokens
from skydriver_common.runtime.settings import ServiceSettings


class ProgressSettings(ServiceSettings):
    """Whose tokens to believe, how much to hold, what to keep."""

    auth_issuer: str = "skydriver-local"
    auth_audience: str = "skydriver"
    auth_jwks_file: Path | None = None
    """Where the gateway's issuer also signs the tokens of single scans, as in an embedded system: its public keys."""
    scan_token_issuer: str = ""
    """The ``iss`` of tokens for single scans, when the dispatcher signs them and people's tokens come from elsewhere."""
    scan_token_jwks_file: Path | None = None
    """Public keys of that issuer."""
    scan_token_grace_s: float = Field(default=scan_tokens.GRACE_S, ge=0)
    """How long after a scan's end its token is still good: for the last report after the final result."""
    coalesce_progress: bool = True
    """Of the reports of one scan that wait together, only the newest is written; false: every one is logged."""
    ingest_prefetch: int = Field(default=2000, ge=1, le=65535)
    """Progress messages held at most; each has at most 128 kB."""
    silence_limit_s: float = Field(default=1800.0, gt=0)
    """A scanner that says nothing for so long while its job lives is told of in the scan's status."""
    progress_retention_days: float = Field(default=90.0, ge=0)
    """After so many days progress reports lose their content, all but the newest of each scan, and superseded partial skymaps are
    removed, all but the first of each scan; 0: never."""
    housekeeping_days: float = Field(default=30.0, ge=0)
    """After so many days recorded replies (what a repeated Idempotency-Key gets) and blobs that no event refers to are let go; 0: never."""

    @model_validator(mode="after")
    def _knows_the_issuer_of_scan_tokens(self) -> Self:
        if bool(self.scan_token_issuer) != bool(self.scan_token_jwks_file):
            raise ValueError("SKYDRIVER_SCAN_TOKEN_ISSUER and SKYDRIVER_SCAN_TOKEN_JWKS_FILE: set both, or none")
        if not self.scan_token_jwks_file and not self.auth_jwks_file:
            raise ValueError(
                "SKYDRIVER_SCAN_TOKEN_JWKS_FILE: is not set (with SKYDRIVER_SCAN_TOKEN_ISSUER), nor is SKYDRIVER_AUTH_JWKS_FILE: "
                "scanners' tokens can't be checked"
            )
        return self

    @property
    def token_issuer(self) -> tuple[str, Path]:
        """Name and key file of the issuer of scan tokens."""
        if self.scan_token_jwks_file:
            return self.scan_token_issuer, self.scan_token_jwks_file
        assert self.auth_jwks_file is not None
        return self.auth_issuer, self.auth_jwks_file

    @property
    def keep_replies(self) -> timedelta | None:
        """How long recorded replies and orphan blobs are kept; None: for ever."""
        return timedelta(days=self.housekeeping_days) if self.housekeeping_days else None

    @property
    def keep_progress(self) -> timedelta | None:
        """How long progress reports keep their content; None: for ever."""
        return timedelta(days=self.progress_retention_days) if self.progress_retention_days else None
