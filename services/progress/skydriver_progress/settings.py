"""Settings of the progress service."""

from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from skydriver_common.model import scan_tokens
from skydriver_common.runtime.settings import ServiceSettings


class ProgressSettings(ServiceSettings):
    """Which tokens to accept, how much to hold, what to keep."""

    auth_issuer: str = "skydriver-local"
    """Issuer (``iss``) of the tokens of single scans, unless SKYDRIVER_SCAN_TOKEN_ISSUER is set."""
    auth_audience: str = "skydriver"
    """Audience (``aud``) that tokens must have."""
    auth_jwks_file: Path | None = None
    """Public keys (JWKS file) of the issuer, if it also signs the tokens of single scans, as in an embedded system."""
    scan_token_issuer: str = ""
    """Issuer (``iss``) of the tokens of single scans, if the dispatcher signs them and another issuer signs users' tokens."""
    scan_token_jwks_file: Path | None = None
    """Public keys (JWKS file) of SKYDRIVER_SCAN_TOKEN_ISSUER."""
    scan_token_grace_s: float = Field(default=scan_tokens.GRACE_S, ge=0)
    """Seconds after a scan's end during which its token stays valid, for the last report after the final result."""
    coalesce_progress: bool = True
    """Write only the newest of a scan's progress reports that wait together. false: write every report to the event log."""
    ingest_prefetch: int = Field(default=2000, ge=1, le=65535)
    """Maximum number of progress messages held in memory, of at most 128 KiB each."""
    scanner_silence_timeout_s: float = Field(default=1800.0, gt=0)
    """Seconds without a report after which the status shows `scanner-silent`."""
    progress_retention_days: float = Field(default=90.0, ge=0)
    """Days after which all but the newest progress report of a scan are compacted, and its superseded partial skymaps are deleted, all
    but the first; 0: never."""
    reply_retention_days: float = Field(default=30.0, ge=0)
    """Days after which recorded replies (what a repeated Idempotency-Key gets) and unreferenced blobs are deleted; 0: never."""

    @model_validator(mode="after")
    def _knows_the_issuer_of_scan_tokens(self) -> Self:
        if bool(self.scan_token_issuer) != bool(self.scan_token_jwks_file):
            raise ValueError("SKYDRIVER_SCAN_TOKEN_ISSUER and SKYDRIVER_SCAN_TOKEN_JWKS_FILE: set both or neither")
        if not self.scan_token_jwks_file and not self.auth_jwks_file:
            raise ValueError(
                "set SKYDRIVER_SCAN_TOKEN_ISSUER and SKYDRIVER_SCAN_TOKEN_JWKS_FILE, or SKYDRIVER_AUTH_JWKS_FILE: they are required to "
                "verify scan tokens"
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
        """How long recorded replies and orphan blobs are kept; None: forever."""
        return timedelta(days=self.reply_retention_days) if self.reply_retention_days else None

    @property
    def keep_progress(self) -> timedelta | None:
        """How long progress reports keep their content; None: forever."""
        return timedelta(days=self.progress_retention_days) if self.progress_retention_days else None
