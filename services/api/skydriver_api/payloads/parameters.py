"""What query strings and headers may hold, where a route and its OpenAPI description must agree."""

IDEMPOTENCY_KEY_PATTERN = "[!-~](?:[ -~]{0,253}[!-~])?"
MAX_EVENTS = 1000
DEFAULT_EVENTS = 100
"""Events of a page."""
MAX_SCANS = 500
DEFAULT_SCANS = 50
"""Scans of a page."""
MAX_LISTED_ID = 9_999_999_999
MAX_LISTED_PRIORITY = 2**31 - 2
SCAN_STATES = (
    *(
        f"{how}__{how_far}"
        for how in ("PENDING", "ABORTED", "STOPPED", "FINISHED")
        for how_far in ("PRESTARTUP", "WAITING_ON_SCANNER_SERVER_STARTUP")
    ),
    *(
        f"{how}__{how_far}"
        for how in ("IN_PROGRESS", "ABORTED", "FINISHED")
        for how_far in ("WAITING_ON_FIRST_PIXEL_RECO", "PARTIAL_RESULT_GENERATED")
    ),
    "SCAN_HAS_FINAL_RESULT",
)
"""Every ``scan_state`` (REST contract 7)."""
STATE_WORDS = {"RUNNING": "IN_PROGRESS", "WAITING": "PENDING", "COMPLETE": "SCAN_HAS_FINAL_RESULT"}
"""What people say, and the beginning of the states that are meant."""
LIST_PARAMETERS = (
    "state", "run_id", "event_id", "i3_event_id", "ewms_workflow_id", "classifier", "since", "until", "min_priority", "max_priority",
    "include_deleted", "order", "after", "limit",
)  # fmt: skip
"""Of ``GET /scans``."""
