-- Read the newest log rows, oldest first.
--
-- $1 job id or NULL   $2 how many, NULL for all
SELECT created, job_id, status::text, priority, entrypoint, traceback::text, aggregated
FROM (
    SELECT *
    FROM {queue_table_log} entry
    WHERE $1::bigint IS NULL OR entry.job_id = $1::bigint
    ORDER BY entry.created DESC, entry.id DESC
    LIMIT $2::bigint
) newest
ORDER BY newest.created, newest.id
