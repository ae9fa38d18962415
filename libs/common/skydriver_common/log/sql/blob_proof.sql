-- name: digests(after, most)
-- Names of blobs in order. Index: blobs_pkey.
SELECT digest FROM blobs WHERE digest > :after ORDER BY digest LIMIT :most;

-- name: missing()
-- Blobs that events refer to and that are not stored, each with the first scan that needs it. Reads the whole log; the CASE keeps
-- from parsing what was taken away.
SELECT digest, min(scan_id) AS scan_id
  FROM (SELECT scan_id, CASE WHEN get_byte(data, 0) = 0 THEN NULL
                             WHEN type = 'scan.requested' THEN json_of(data) ->> 'event_digest'
                             ELSE json_of(data) ->> 'digest' END AS digest
          FROM event_log WHERE type IN ('scan.requested', 'scan.result-received')) referred
 WHERE digest IS NOT NULL AND NOT EXISTS (SELECT FROM blobs b WHERE b.digest = referred.digest)
 GROUP BY digest ORDER BY digest;
