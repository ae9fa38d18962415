-- transactional: false
-- GET /scans by priority, a page at a time.
CREATE INDEX CONCURRENTLY IF NOT EXISTS manifests_list_priority ON manifests (priority, scan_id) WHERE NOT is_deleted;
