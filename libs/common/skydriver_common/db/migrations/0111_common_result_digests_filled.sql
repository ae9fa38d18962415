-- The results from before the trigger (0110), which notes those that come meanwhile. Index: event_log_result_digest.

INSERT INTO result_digests (digest, scan_id, version)
SELECT coalesce(result_digest_of(data), ''), scan_id, version FROM event_log WHERE type = 'scan.result-received'
    ON CONFLICT ON CONSTRAINT result_digests_pkey DO NOTHING;
