-- Write outcomes that are all 'successful', each only where its claim still owns the row: the
-- common case of `finish`, without what only failures and retries need.
--
-- $1 worker uuid   $2 ids   $3 `updated` of each claim
--
-- `owned` pairs each id with its own `updated`; OFFSET 0 keeps it a walk of the primary key, row
-- by row, whatever the statistics say of a table that is empty one moment and full the next. The
-- delete checks the fence again, for a row that changed hands meanwhile. IS NOT DISTINCT FROM is
-- there because the planner must not walk the index of all rows this worker ever held. `= ANY` walks
-- the primary key in the order of ids, whatever theirs in the array, so that two statements on the
-- same claims never wait for each other in a circle.
WITH owned AS MATERIALIZED (
    SELECT job.id
    FROM unnest($2::bigint[], $3::timestamptz[]) AS claim(id, updated)
    CROSS JOIN LATERAL (
        SELECT q.id
        FROM {queue_table} q
        WHERE q.id = claim.id
          AND q.updated = claim.updated
          AND q.queue_manager_id IS NOT DISTINCT FROM $1::uuid
        OFFSET 0
    ) job
),
removed AS (
    DELETE FROM {queue_table} job
    WHERE job.id = ANY(ARRAY(SELECT id FROM owned))
      AND job.updated = ANY($3::timestamptz[])
      AND job.queue_manager_id IS NOT DISTINCT FROM $1::uuid
    RETURNING job.id, job.priority, job.entrypoint, job.slot
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'successful', priority, entrypoint
    FROM removed
)
SELECT id FROM removed
UNION ALL
-- A freed slot makes a waiting job runnable.
SELECT NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM removed WHERE slot IS NOT NULL)
) woken
