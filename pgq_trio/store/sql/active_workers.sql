-- The workers that hold picked jobs.
--
-- Rows with an owner are few and have an index. Times are cut to what clients can hold, see
-- claim.sql.
SELECT
    queue_manager_id,
    count(*),
    greatest({first_time}, least({last_time}, min(heartbeat))),
    greatest({first_time}, least({last_time}, max(heartbeat))),
    array_agg(DISTINCT entrypoint COLLATE "C" ORDER BY entrypoint COLLATE "C")
FROM {queue_table} job
WHERE job.queue_manager_id IS NOT NULL AND job.status = 'picked'
GROUP BY job.queue_manager_id
ORDER BY job.queue_manager_id
