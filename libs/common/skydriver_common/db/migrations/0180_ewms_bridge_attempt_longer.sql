-- EWMS may say with a lost answer for how long it is busy (Retry-After): its effect can come so much later.

ALTER TABLE ewms_attempts ADD COLUMN longer_s double precision NOT NULL DEFAULT 0;
COMMENT ON COLUMN ewms_attempts.longer_s IS 'seconds by which the request may still come true later than others';
