"""The main flow with the client that a generator made from /openapi.json: ``main_flow.py URL TOKEN``, a request on stdin.

Runs in the generator's environment, not in ours: of the project only what tests wait by is imported. Prints what it has seen.
"""

import json
import sys
import uuid

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

from tests.support.waiting import wait_until

_LIMIT_S = 120.0

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2], raise_on_unexpected_status=True)
body = WholeScanRequest.from_dict(json.load(sys.stdin))

requested = request_scan.sync(client=client, body=body, idempotency_key=str(uuid.uuid4()))
scan_id = requested.scan_id
wait_until(lambda: get_status.sync(scan_id, client=client).scan_complete, _LIMIT_S, "the scan is complete")

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
