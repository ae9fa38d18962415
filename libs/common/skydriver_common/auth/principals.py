"""The result of a checked token: a subject, its roles, and the one scan it may be limited to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from skydriver_common.model.ids import ScanId

__all__ = ["DEFAULT_ROLE_RULES", "SCAN_CLAIM", "InvalidToken", "Principal", "Role", "RoleRule", "roles_in"]

SCAN_CLAIM = "scan_id"
"""A token with this claim is good for that scan only."""


class InvalidToken(Exception):
    """The token cannot be accepted, now or ever.

    Attributes:
        reason: for the client and the log; holds nothing of the token but names of claims.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Role(Enum):
    """What a token lets its bearer act as."""

    USER = "user"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class RoleRule:
    """A role, and the claim that grants it: the value is in the list at the path.

    Source: REST contract 1.2 for the defaults.
    """

    role: Role
    path: tuple[str, ...]
    value: str

    @classmethod
    def parse(cls, role: Role, text: str) -> Self:
        """From a setting such as ``resource_access/skydriver-external/roles=users`` (names of claims may hold dots).

        Raises ValueError when the text has another form.
        """
        path, equals, value = text.partition("=")
        parts = tuple(part.strip() for part in path.split("/"))
        if not equals or not value.strip() or not all(parts):
            raise ValueError("must look like claim/claim/claim=value")
        return cls(role, parts, value.strip())

    def grants(self, claims: Mapping[str, object]) -> bool:
        """Whether the claims hold the value at the path; a claim of another shape grants nothing."""
        found: object = claims
        for part in self.path:
            if not isinstance(found, Mapping):
                return False
            found = found.get(part)
        return found == self.value if isinstance(found, str) else isinstance(found, list) and self.value in found


DEFAULT_ROLE_RULES: tuple[RoleRule, ...] = (
    RoleRule(Role.USER, ("resource_access", "skydriver-external", "roles"), "users"),
    RoleRule(Role.SYSTEM, ("resource_access", "skydriver-internal", "roles"), "system"),
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking.

    Attributes:
        subject: the token's `sub`; unique within its issuer.
        issuer: the token's `iss`.
        roles: may be empty; then no route is allowed.
        scan_id: the only scan this token is good for, or None for all.
        expires_at: Unix seconds after which the token is not accepted any more; what goes on for long has to end then.
    """

    subject: str
    issuer: str
    roles: frozenset[Role]
    scan_id: ScanId | None = None
    expires_at: float = field(default=float("inf"), compare=False)

    def may_touch(self, scan_id: ScanId) -> bool:
        """Whether the token's limit, if it has one, lets it be used on this scan. Roles are another question."""
        return self.scan_id is None or self.scan_id == scan_id


def roles_in(claims: Mapping[str, object], rules: Iterable[RoleRule]) -> frozenset[Role]:
    """The roles that verified claims grant."""
    return frozenset(rule.role for rule in rules if rule.grants(claims))
