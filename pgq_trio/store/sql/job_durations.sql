-- Percentiles of how long jobs ran, by entrypoint, the slowest first.
--
-- $1 of the last so many seconds
--
-- A run is a claim and what the log has next for the same job, if that is an outcome. `page` walks
-- the primary key backwards until ten thousand rows in a row are too old, so that a short time of
-- a long log costs what that time holds, without an index on times.
WITH RECURSIVE since AS (
    SELECT now() - make_interval(secs => $1::float8) AS time
),
page(low, is_recent) AS (
    SELECT (SELECT max(id) + 1 FROM {queue_table_log}), true
    UNION ALL
    SELECT older.low, older.is_recent
    FROM page
    CROSS JOIN LATERAL (
        SELECT min(entry.id) AS low, bool_or(entry.created > since.time) AS is_recent
        FROM since
        CROSS JOIN LATERAL (
            SELECT id, created
            FROM {queue_table_log}
            WHERE id < page.low
            ORDER BY id DESC
            LIMIT 10000
        ) entry
    ) older
    WHERE page.is_recent AND older.low IS NOT NULL
),
steps AS (
    SELECT
        entrypoint,
        status,
        lag(status) OVER of_job AS status_before,
        extract(epoch FROM created - lag(created) OVER of_job)::float8 AS seconds
    FROM {queue_table_log}
    WHERE id >= (SELECT min(low) FROM page) AND created > (SELECT time FROM since)
    WINDOW of_job AS (PARTITION BY job_id ORDER BY created, id)
)
SELECT
    entrypoint,
    count(*),
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS percentiles,
    max(seconds)
FROM steps
WHERE status_before = 'picked' AND status IN ('successful', 'exception', 'canceled', 'failed')
GROUP BY entrypoint
ORDER BY (percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)) DESC, entrypoint COLLATE "C"
