"""Verify the token in a message's header, as the gateway does: it must be the token of the scan that the message is about."""

from skydriver_common.auth import InvalidToken, Role, TokenVerifier
from skydriver_common.model.ids import ScanId
from skydriver_progress.reports import ReportCode, ReportRejection


class ScanTokenVerifier:
    """Checks the signature once per token (and again every few minutes), the expiry each time."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def subject(self, token: str, scan_id: ScanId) -> str | ReportRejection:
        """Return the subject of a token that is valid for this scan and no other. Raises TryLater when the keys are unavailable."""
        try:
            principal = await self._verifier.verify(token)
        except InvalidToken as error:
            return ReportRejection(ReportCode.TOKEN_INVALID, f"invalid token: {error.reason}")
        if principal.scan_id is None or principal.scan_id != scan_id or Role.SYSTEM not in principal.roles:
            return ReportRejection(ReportCode.TOKEN_FOREIGN, "the token is not for this scan")
        return principal.subject
