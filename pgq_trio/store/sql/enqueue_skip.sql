-- Insert a batch of jobs as enqueue.sql does, and leave out those whose dedupe key is taken.
--
-- The parameters are those of enqueue.sql. Of a key that is twice in the batch the first wins. A
-- place that was left out answers NULL; the id it drew is a gap in the sequence, nothing more.
--
-- Keys are inserted in their own order, so that two callers with the same ones never wait for each
-- other in a circle.
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
    ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL
        DO NOTHING
    RETURNING id, priority, entrypoint
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'queued', priority, entrypoint
    FROM inserted
    WHERE $8::bool
    ORDER BY id
)
SELECT inserted.id
FROM input
LEFT JOIN inserted ON inserted.id = input.id
ORDER BY input.place
