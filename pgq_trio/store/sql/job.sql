-- One row of the queue table.
--
-- $1 id
--
-- Times are cut to what clients can hold, see claim.sql.
SELECT id, priority,
    greatest({first_time}, least({last_time}, created)),
    greatest({first_time}, least({last_time}, execute_after)),
    entrypoint, payload, headers::text, attempts, dedupe_key, slot, status::text,
    greatest({first_time}, least({last_time}, updated)),
    greatest({first_time}, least({last_time}, heartbeat)),
    queue_manager_id
FROM {queue_table} job
WHERE job.id = $1::bigint
