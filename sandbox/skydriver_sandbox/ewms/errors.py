"""EWMS's error answers: `{"code", "error"}`. Source: EWMS contract 2."""


class RestError(Exception):
    """An answer other than 200; the text goes to the client. Like EWMS's it may repeat what the client sent."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


AUTHENTICATION_FAILED = "authentication failed"
AUTHORIZATION_FAILED = "authorization failed"
