-- Insert a batch of jobs as enqueue.sql does; where a dedupe key is taken, raise the priority of
-- the job that has it, queued or picked, and answer its id.
--
-- The parameters are those of enqueue.sql. The caller has merged keys that are twice in the batch:
-- one statement cannot change a row twice.
--
-- Keys are inserted, and their rows locked, in their own order, so that two callers with the same
-- ones never wait for each other in a circle.
WITH input AS MATERIALIZED (
    SELECT
        nextval((SELECT pg_get_serial_sequence({queue_table_text}, 'id')::regclass)) AS id,
        job.*
    FROM unnest(
        $1::text[], $2::bytea[], $3::int[], $4::float8[], $5::timestamptz[], $6::text[], $7::text[]
    ) WITH ORDINALITY
        AS job(entrypoint, payload, priority, delay, execute_at, dedupe_key, headers, place)
),
inserted AS (
    INSERT INTO {queue_table} AS job
        (id, priority, execute_after, status, entrypoint, dedupe_key, payload, headers)
    SELECT id, priority,
        coalesce(execute_at, now() + make_interval(secs => coalesce(delay, 0))),
        'queued', entrypoint, dedupe_key, payload, headers::jsonb
    FROM input
    ORDER BY dedupe_key COLLATE "C", place
    ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL
        DO UPDATE SET priority = greatest(job.priority, excluded.priority)
    RETURNING job.id, job.priority, job.entrypoint, job.dedupe_key
),
logged AS (
    -- A job whose priority was raised was logged when it was queued.
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'queued', priority, entrypoint
    FROM inserted
    WHERE $8::bool AND id IN (SELECT id FROM input)
    ORDER BY id
)
SELECT coalesce(by_key.id, input.id)
FROM input
LEFT JOIN inserted by_key ON by_key.dedupe_key = input.dedupe_key
ORDER BY input.place
