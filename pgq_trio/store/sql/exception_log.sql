-- The log rows of failures, the newest first.
--
-- $1 how many
--
-- The primary key, read backwards until there are enough: where jobs fail that is soon, and where
-- they do not an index on states would cost every job and hold next to nothing.
SELECT created, job_id, status::text, priority, entrypoint, traceback::text, aggregated
FROM {queue_table_log} entry
WHERE entry.status IN ('exception', 'failed')
ORDER BY entry.id DESC
LIMIT $1::bigint
