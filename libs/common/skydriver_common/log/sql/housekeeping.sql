-- name: forget_replies(before, most)$
-- Index: command_replies_age.
SELECT forget_replies(:before, :most);

-- name: drop_orphan_blobs(before, after, most)^
-- Indexes: blobs_pkey, i3_events_digest, result_digests_pkey.
SELECT gone, bytes, next_digest FROM drop_orphan_blobs(:before, :after, :most);

-- name: forget_replies_without_key(most)$
-- Index: command_replies_without_key.
SELECT forget_replies_without_key(:most);
