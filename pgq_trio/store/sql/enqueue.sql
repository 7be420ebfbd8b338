-- Insert a batch of jobs, log each as queued; the insert itself wakes the workers (the trigger).
--
-- $1 entrypoints   $2 payloads   $3 priorities   $4 delays in seconds   $5 points in time
-- $6 dedupe keys   $7 headers (JSON text)   $8 log 'queued'?
--
-- Each input row draws its id itself, in input order: first in, first out, and every id finds its
-- place in the answer. MATERIALIZED, because it must not be drawn twice; the sub-select looks the
-- sequence up once instead of once a row.
--
-- Keys are inserted in their own order, so that two callers with the same ones never wait for each
-- other in a circle: one of them is to learn of a duplicate, not of a deadlock.
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
    INSERT INTO {queue_table}
        (id, priority, execute_after, status, entrypoint, dedupe_key, payload, headers)
    SELECT id, priority,
        coalesce(execute_at, now() + make_interval(secs => coalesce(delay, 0))),
        'queued', entrypoint, dedupe_key, payload, headers::jsonb
    FROM input
    ORDER BY dedupe_key COLLATE "C", place
    RETURNING id, priority, entrypoint
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'queued', priority, entrypoint
    FROM inserted
    WHERE $8::bool
    ORDER BY id
)
SELECT id FROM input ORDER BY place
