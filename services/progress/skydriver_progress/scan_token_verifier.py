"""Whether a message speaks for its scan: the token in its header, checked as the gateway checks one."""

from skydriver_common.auth import InvalidToken, Role, TokenVerifier
from skydriver_progress.reports import ReportCode, ReportRejection


class ScanTokenVerifier:
    """Signatures are checked once per token (and again every few minutes), expiry each time."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def subject(self, token: str, scan_id: str) -> str | ReportRejection:
        """The subject of a token that is good for this scan and no other. Raises TryLater when the keys can't be had."""
        try:
            principal = await self._verifier.verify(token)
        except InvalidToken as error:
            return ReportRejection(ReportCode.TOKEN_INVALID, f"the token can't be accepted: {error.reason}")
        if principal.scan_id is None or principal.scan_id != scan_id or Role.SYSTEM not in principal.roles:
            return ReportRejection(ReportCode.TOKEN_FOREIGN, "the token is not for this scan")
        return principal.subject
