-- Count jobs by entrypoint, priority and status.
SELECT entrypoint, priority, status::text, count(*)
FROM {queue_table} job
GROUP BY job.entrypoint, job.priority, job.status
ORDER BY job.entrypoint COLLATE "C", job.priority, job.status
