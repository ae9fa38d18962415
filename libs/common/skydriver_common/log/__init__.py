"""The event log and the views folded from it: appending, reading, blobs. Nothing else writes these tables."""
