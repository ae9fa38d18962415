"""What query strings and headers may hold, where a route and its OpenAPI description must agree."""

IDEMPOTENCY_KEY_PATTERN = "[!-~](?:[ -~]{0,253}[!-~])?"
MAX_EVENTS = 1000
DEFAULT_EVENTS = 100
"""Events of a page."""
