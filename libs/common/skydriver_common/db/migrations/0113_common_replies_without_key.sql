-- transactional: false

-- The oldest replies that forget_replies_without_key (0112) may forget, without a walk through those with a key.
CREATE INDEX CONCURRENTLY IF NOT EXISTS command_replies_without_key ON command_replies (recorded_at)
    WHERE substr(command_id, 15, 1) = '4' AND length(command_id) = 36;
