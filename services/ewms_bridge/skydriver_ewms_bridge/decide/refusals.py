"""Whether a "no" of EWMS to a request that makes something is its last word: whether time can change the answer.

Final are complaints about the request itself: its schema, an unknown cluster, a pilot variable that belongs to EWMS. What a request
names may come to exist (an image that is being uploaded), and rights, conflicts, locks and limits pass. Source: EWMS contract 2, 3.
"""

import re

_ABOUT_AN_IMAGE = re.compile(r"\bimage\b|upload", re.IGNORECASE)
_SCHEMA = re.compile(r"'[\w.\[\]-]*': |missing required|additional properties", re.IGNORECASE)
"""Complaints of EWMS's schema check begin with the path of the field."""
_CLUSTER = re.compile(r"location not found|(?:unknown|no such) (?:cluster|location)", re.IGNORECASE)
_VARIABLE = re.compile(r"cannot (?:include|override)\b.*EWMS_PILOT_", re.IGNORECASE)
_PASSING_STATUSES = frozenset({403, 409, 423, 429})


def is_final_refusal(status: int, reason: str) -> bool:
    """Whether the same request would be refused again whenever it is repeated. status: of 4xx; reason: EWMS's own words."""
    if status in _PASSING_STATUSES:
        return False
    if status != 400:
        return True
    return any(_is_about_the_request(complaint) for complaint in reason.split("; "))


def _is_about_the_request(complaint: str) -> bool:
    if _CLUSTER.search(complaint) or _VARIABLE.search(complaint):
        return True
    return _SCHEMA.match(complaint) is not None and not _ABOUT_AN_IMAGE.search(complaint)
