-- How many jobs of each entrypoint are queued, and for how long.
--
-- A scan: it looks at every queued row, which is nearly all rows.
SELECT
    entrypoint,
    count(*),
    min(created),
    extract(epoch FROM now() - min(created))::float8,
    avg(extract(epoch FROM now() - created))::float8
FROM {queue_table} job
WHERE job.status = 'queued'
GROUP BY job.entrypoint
ORDER BY job.entrypoint COLLATE "C"
