-- Queue interrupted jobs again, runnable at once, without spending an attempt.
--
-- $1 worker uuid   $2 ids   $3 `updated` of each claim   $4 log 'queued'?
--
-- A job that was rescued before is logged in any case: it ends the row of runs without an outcome.
-- `owned` is explained in finish_successful.sql. "At once" is a microsecond ago: a claim takes what
-- was due before its own now, and that may be the same microsecond.
WITH owned AS MATERIALIZED (
    SELECT claim.id
    FROM unnest($2::bigint[], $3::timestamptz[]) AS claim(id, updated)
    CROSS JOIN LATERAL (
        SELECT
        FROM {queue_table} q
        WHERE q.id = claim.id
          AND q.updated = claim.updated
          AND q.queue_manager_id IS NOT DISTINCT FROM $1::uuid
        OFFSET 0
    ) job
),
released AS (
    UPDATE {queue_table} job
    SET status = 'queued',
        execute_after = now() - interval '1 microsecond',
        updated = now(),
        queue_manager_id = NULL,
        slot = NULL
    WHERE job.id = ANY(ARRAY(SELECT id FROM owned))
      AND job.updated = ANY($3::timestamptz[])
      AND job.queue_manager_id IS NOT DISTINCT FROM $1::uuid
    RETURNING job.id, job.priority, job.entrypoint, job.attempts
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'queued', priority, entrypoint
    FROM released
    WHERE $4::bool OR attempts > 0
)
SELECT id FROM released
UNION ALL
SELECT NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM released)
) woken
