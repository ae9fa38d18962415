"""What the API server says of quotas: there is no code for it, only words."""

_FULL, _NOT_COUNTED = "exceeded quota", "status unknown for quota"


def is_quota_exceeded(message: str) -> bool:
    """Whether a refusal is for want of room, which passes when something goes."""
    return _FULL in message


def is_quota_unknown(message: str) -> bool:
    """Whether a quota is so new that the cluster has not counted yet: it refuses everything for a moment."""
    return _NOT_COUNTED in message
