-- The first log rows of a job, the oldest first; by the index on jobs.
--
-- $1 id   $2 how many
SELECT created, job_id, status::text, priority, entrypoint, traceback::text, aggregated
FROM {queue_table_log} entry
WHERE entry.job_id = $1::bigint
ORDER BY entry.created, entry.id
LIMIT $2::bigint
