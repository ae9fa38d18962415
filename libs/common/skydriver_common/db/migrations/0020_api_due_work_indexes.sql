-- "When is the next one due" must not read a long backlog through: it is asked at each wake-up of a loop.
DROP INDEX due_work_due;
CREATE INDEX due_work_free ON due_work (kind, due_at) WHERE leased_until IS NULL;
CREATE INDEX due_work_held ON due_work (kind, leased_until) WHERE leased_until IS NOT NULL;
