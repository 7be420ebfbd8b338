-- The last known state of jobs: the row's if there is one, else the newest log row's.
--
-- $1 ids
SELECT asked.id, coalesce(job.status, entry.status)::text
FROM unnest($1::bigint[]) AS asked(id)
LEFT JOIN {queue_table} job ON job.id = asked.id
LEFT JOIN LATERAL (
    SELECT newest.status
    FROM {queue_table_log} newest
    WHERE job.id IS NULL AND newest.job_id = asked.id
    ORDER BY newest.created DESC, newest.id DESC
    LIMIT 1
) entry ON true
WHERE coalesce(job.status, entry.status) IS NOT NULL
