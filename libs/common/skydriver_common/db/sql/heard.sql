-- name: note_heard(replica, is_clear, contiguous_s)!
-- Note what a replica sees now. It has been clear since its first look of an unbroken series in which all was clear.
-- Replicas that are long gone are forgotten on the way.
WITH gone AS (DELETE FROM progress_heard WHERE looked_at < clock_timestamp() - interval '1 day' AND replica <> :replica)
INSERT INTO progress_heard AS h (replica, clear_since, looked_at)
VALUES (:replica, CASE WHEN :is_clear::boolean THEN clock_timestamp() END, clock_timestamp())
ON CONFLICT (replica) DO UPDATE SET
    clear_since = CASE
        WHEN NOT :is_clear::boolean THEN NULL
        WHEN h.looked_at < clock_timestamp() - make_interval(secs => :contiguous_s::float8) THEN clock_timestamp()
        ELSE coalesce(h.clear_since, clock_timestamp()) END,
    looked_at = clock_timestamp();

-- name: is_all_heard(since, settles_s, contiguous_s, gone_after_s)$
-- Whether each replica that may hold messages has looked lately and has been clear for long enough after that time.
SELECT coalesce(bool_and(
           h.clear_since IS NOT NULL
           AND h.looked_at > clock_timestamp() - make_interval(secs => :contiguous_s::float8)
           AND h.looked_at >= greatest(h.clear_since, :since::timestamptz) + make_interval(secs => :settles_s::float8)), false)
  FROM progress_heard h
 WHERE h.looked_at > clock_timestamp() - make_interval(secs => :gone_after_s::float8);
