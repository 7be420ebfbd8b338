-- One row of the queue table.
--
-- $1 id
SELECT id, priority, created, execute_after, entrypoint, payload, headers::text, attempts,
    dedupe_key, slot, status::text, updated, heartbeat, queue_manager_id
FROM {queue_table} job
WHERE job.id = $1::bigint
