-- transactional: false
-- For claims: of each kind and priority the row that is due first. What is not due, and what is claimed, is never walked through.
CREATE INDEX CONCURRENTLY IF NOT EXISTS due_work_claims ON due_work (kind, priority DESC, due_at) WHERE leased_until IS NULL;
