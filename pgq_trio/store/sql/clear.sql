-- Delete the jobs of some entrypoints, of all with NULL, and log them as deleted.
--
-- $1 entrypoints text[] or NULL
--
-- Deleting instead of truncating: truncating would lock workers out and leave nothing to log.
WITH removed AS (
    DELETE FROM {queue_table} job
    WHERE $1::text[] IS NULL OR job.entrypoint = ANY($1::text[])
    RETURNING job.id, job.priority, job.entrypoint, job.slot, job.status
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'deleted', priority, entrypoint
    FROM removed
)
SELECT count(*) FROM removed
UNION ALL
-- A freed slot makes a waiting job runnable; of the two rows only the first is read.
SELECT NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM removed WHERE status = 'picked' AND slot IS NOT NULL)
) woken
