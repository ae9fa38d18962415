-- What the replicas of progress have handled of what scanners sent, for those who judge a scan by what is missing (see db/heard.py).
-- A handful of rows, one per replica.

CREATE TABLE progress_heard (
    replica text PRIMARY KEY,
    clear_since timestamptz,
    looked_at timestamptz NOT NULL
);
