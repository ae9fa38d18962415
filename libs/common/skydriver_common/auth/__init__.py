"""Who is asking: bearer tokens issued, checked, and turned into a principal with roles.

Admission rule: tokens and keys only. What a role may do is decided by the routes.
"""

from skydriver_common.auth.keys import JwksFile, KeySource, OidcDiscovery, VerificationKey
from skydriver_common.auth.principals import DEFAULT_ROLE_RULES, InvalidToken, Principal, Role, RoleRule
from skydriver_common.auth.signing import TokenSigner, ensure_key
from skydriver_common.auth.verification import Issuer, TokenVerifier, bearer_token

__all__ = [
    "DEFAULT_ROLE_RULES",
    "InvalidToken",
    "Issuer",
    "JwksFile",
    "KeySource",
    "OidcDiscovery",
    "Principal",
    "Role",
    "RoleRule",
    "TokenSigner",
    "TokenVerifier",
    "VerificationKey",
    "bearer_token",
    "ensure_key",
]
