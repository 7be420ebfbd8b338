-- Delete jobs in any state and log them as canceled.
--
-- $1 ids
--
-- Rows are locked in the order of their ids, as requeue.sql and finish.sql do: a scan meets them in
-- another, and two such statements would wait for each other.
WITH found AS MATERIALIZED (
    SELECT job.id
    FROM {queue_table} job
    WHERE job.id = ANY($1::bigint[])
    ORDER BY job.id
    FOR UPDATE
),
removed AS (
    DELETE FROM {queue_table} job
    WHERE job.id = ANY(ARRAY(SELECT id FROM found))
    RETURNING job.id, job.priority, job.entrypoint, job.slot, job.status
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'canceled', priority, entrypoint
    FROM removed
)
SELECT id, now() FROM removed
UNION ALL
-- A freed slot makes a waiting job runnable.
SELECT NULL, NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM removed WHERE status = 'picked' AND slot IS NOT NULL)
) woken
