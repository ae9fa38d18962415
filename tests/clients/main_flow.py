"""The main flow with the client that a generator made from /openapi.json: ``main_flow.py FOLDER URL TOKEN``, a request on stdin.

Runs in the generator's environment, not in ours: nothing of the project is imported here. Prints the final result's digest of facts.
"""

import json
import sys
import time
import uuid

sys.path.insert(0, sys.argv[1])

from generated.api.default import (  # type: ignore[import-not-found]
    delete_scan,
    find_scans,
    get_backlog,
    get_i3_event,
    get_manifest,
    get_result,
    get_scan_request,
    get_status,
    request_scan,
)
from generated.client import AuthenticatedClient  # type: ignore[import-not-found]
from generated.models import (  # type: ignore[import-not-found]
    Error,
    FindBody,
    WholeScanRequest,
)

_LIMIT_S = 120.0

client = AuthenticatedClient(base_url=sys.argv[2], token=sys.argv[3], raise_on_unexpected_status=True)
body = WholeScanRequest.from_dict(json.load(sys.stdin))

requested = request_scan.sync(client=client, body=body, idempotency_key=str(uuid.uuid4()))
scan_id = requested.scan_id
deadline = time.monotonic() + _LIMIT_S
while not (status := get_status.sync(scan_id, client=client)).scan_complete:
    if time.monotonic() > deadline:
        sys.exit(f"the scan is not complete after {_LIMIT_S:g} s: {status}")
    time.sleep(0.2)

manifest = get_manifest.sync(scan_id, client=client)
result = get_result.sync(scan_id, client=client)
request = get_scan_request.sync(scan_id, client=client)
event = get_i3_event.sync(scan_id, client=client)
found = find_scans.sync(client=client, body=FindBody.from_dict({"filter": {"scan_id": scan_id}}))
backlog = get_backlog.sync(client=client)
deleted = delete_scan.sync(scan_id, client=client, body=delete_scan.DeleteBody.from_dict({"delete_completed_scan": True}))
gone = get_manifest.sync(scan_id, client=client)
missing = get_status.sync("no-such-scan", client=client)

json.dump(
    {
        "has_progress": bool(manifest.progress and manifest.progress.tallies.to_dict()),
        "is_final": result.is_final,
        "has_skymap": bool(result.skyscan_result.to_dict()),
        "docker_tag": request.docker_tag,
        "has_event": bool(event.i3_event.to_dict()),
        "found": [one.scan_id for one in found.manifests] == [scan_id],
        "waiting": len(backlog.entries),
        "is_deleted": deleted.manifest.is_deleted,
        "gone": isinstance(gone, Error),
        "missing": missing.code if isinstance(missing, Error) else None,
    },
    sys.stdout,
)
