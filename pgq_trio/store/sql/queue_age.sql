-- How many jobs of each entrypoint are queued, and for how long.
--
-- A scan: it looks at every queued row, which is nearly all rows. Times are cut to what clients can
-- hold, see claim.sql.
SELECT
    entrypoint,
    count(*),
    greatest({first_time}, least({last_time}, min(created))),
    extract(epoch FROM now() - greatest({first_time}, least({last_time}, min(created))))::float8,
    avg(extract(epoch FROM now() - greatest({first_time}, least({last_time}, created))))::float8
FROM {queue_table} job
WHERE job.status = 'queued'
GROUP BY job.entrypoint
ORDER BY job.entrypoint COLLATE "C"
