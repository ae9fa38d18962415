"""The life of a scan: request, rescan, delete, backlog, launch, watch over its scanner server."""
