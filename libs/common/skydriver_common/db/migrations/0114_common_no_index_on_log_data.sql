-- transactional: false

-- Nothing looks by it since 0112. With it, no change of an event's data could stay within its page (HOT).
DROP INDEX CONCURRENTLY IF EXISTS event_log_result_digest;
