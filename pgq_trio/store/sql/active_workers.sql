-- The workers that hold picked jobs.
--
-- Rows with an owner are few and have an index.
SELECT
    queue_manager_id,
    count(*),
    min(heartbeat),
    max(heartbeat),
    array_agg(DISTINCT entrypoint COLLATE "C" ORDER BY entrypoint COLLATE "C")
FROM {queue_table} job
WHERE job.queue_manager_id IS NOT NULL AND job.status = 'picked'
GROUP BY job.queue_manager_id
ORDER BY job.queue_manager_id
