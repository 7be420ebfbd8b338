-- Read held jobs, the last created first.
--
-- $1 how many
--
-- Times are cut to what clients can hold, see claim.sql.
SELECT id, priority,
    greatest({first_time}, least({last_time}, created)),
    greatest({first_time}, least({last_time}, execute_after)),
    entrypoint, payload, headers::text, attempts, dedupe_key, slot,
    greatest({first_time}, least({last_time}, updated)),
    greatest({first_time}, least({last_time}, heartbeat)),
    queue_manager_id
FROM {queue_table}
WHERE status = 'failed'
ORDER BY created DESC, id DESC
LIMIT $1::bigint
