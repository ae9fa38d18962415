-- transactional: false
-- GET /scans by state, newest first, a page at a time.
CREATE INDEX CONCURRENTLY IF NOT EXISTS manifests_list_state ON manifests (state, scan_id) WHERE NOT is_deleted;
