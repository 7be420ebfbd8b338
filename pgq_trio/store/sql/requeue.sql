-- Queue held jobs again with no attempts spent.
--
-- $1 ids   $2 log 'queued'?
--
-- A job whose dedupe key is taken stays held and does not keep the others from going; of several
-- held jobs with one key the lowest id goes. A key that is taken between this statement's snapshot
-- and its update still violates the index: the caller repeats the statement then.
--
-- Rows are locked before one is chosen of those with the same key: one that somebody cancels just
-- now would be chosen in vain.
WITH asked_for AS MATERIALIZED (
    SELECT job.id, job.dedupe_key
    FROM {queue_table} job
    WHERE job.id = ANY($1::bigint[]) AND job.status = 'failed'
    ORDER BY job.id
    FOR UPDATE
),
held AS MATERIALIZED (
    SELECT DISTINCT ON (coalesce(job.dedupe_key, job.id::text), job.dedupe_key IS NULL) job.id
    FROM asked_for job
    WHERE NOT EXISTS (
        SELECT FROM {queue_table} other
        WHERE other.dedupe_key = job.dedupe_key
          AND other.status IN ('queued', 'picked')
          AND other.dedupe_key IS NOT NULL
    )
    ORDER BY coalesce(job.dedupe_key, job.id::text), job.dedupe_key IS NULL, job.id
),
requeued AS (
    UPDATE {queue_table} job
    SET status = 'queued',
        execute_after = now() - interval '1 microsecond',
        updated = now(),
        attempts = 0,
        queue_manager_id = NULL,
        slot = NULL
    WHERE job.id = ANY(ARRAY(SELECT id FROM held)) AND job.status = 'failed'
    RETURNING job.id, job.priority, job.entrypoint
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'queued', priority, entrypoint
    FROM requeued
    WHERE $2::bool
)
SELECT id FROM requeued
UNION ALL
SELECT NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM requeued)
) woken
