-- Write outcomes of every kind, each only where its claim still owns the row.
--
-- $1 worker uuid   $2 ids   $3 `updated` of each claim   $4 kinds   $5 tracebacks (JSON text)
-- $6 delays in seconds
--
-- One statement: the rows go, stay or are queued again, and the log has each outcome if and only
-- if it was written. `owned` is explained in finish_successful.sql. Here it locks the rows, in the
-- order of ids as every statement on claims does: what is removed and what is kept are changed in
-- turn, which the worker's own heartbeat could meet in a circle.
WITH owned AS MATERIALIZED (
    SELECT claim.id, claim.updated, claim.kind, claim.traceback, claim.delay, job.slot
    FROM (
        SELECT *
        FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::float8[])
            AS given(id, updated, kind, traceback, delay)
        ORDER BY given.id
    ) claim
    CROSS JOIN LATERAL (
        SELECT q.slot
        FROM {queue_table} q
        WHERE q.id = claim.id
          AND q.updated = claim.updated
          AND q.queue_manager_id IS NOT DISTINCT FROM $1::uuid
        FOR UPDATE
    ) job
),
removed AS (
    DELETE FROM {queue_table} job
    USING owned
    WHERE job.id = owned.id
      AND job.updated = owned.updated
      AND owned.kind NOT IN ('failed', 'retry')
    RETURNING job.id, job.priority, job.entrypoint, owned.kind, owned.traceback, owned.slot
),
kept AS (
    UPDATE {queue_table} job
    SET status = CASE owned.kind WHEN 'retry' THEN 'queued' ELSE 'failed' END
            ::{queue_status_type},
        execute_after = CASE owned.kind
            WHEN 'retry' THEN now() + make_interval(secs => owned.delay)
            ELSE job.execute_after
        END,
        attempts = job.attempts + (owned.kind = 'retry')::int,
        updated = now(),
        queue_manager_id = NULL,
        slot = NULL
    FROM owned
    WHERE job.id = owned.id
      AND job.updated = owned.updated
      AND owned.kind IN ('failed', 'retry')
    RETURNING job.id, job.priority, job.entrypoint, owned.kind, owned.traceback, owned.slot
),
written AS (
    SELECT * FROM removed
    UNION ALL
    SELECT * FROM kept
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint, traceback)
    SELECT id, (CASE kind WHEN 'retry' THEN 'queued' ELSE kind END)::{queue_status_type},
        priority, entrypoint, traceback::jsonb
    FROM written
)
SELECT id FROM written
UNION ALL
-- A retry is runnable work, and a freed slot makes a waiting job runnable.
SELECT NULL
FROM (
    SELECT {wake}
    WHERE EXISTS (SELECT FROM written WHERE kind = 'retry' OR slot IS NOT NULL)
) woken
