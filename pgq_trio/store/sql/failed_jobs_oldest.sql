-- Read held jobs, the first created first.
--
-- $1 how many
SELECT id, priority, created, execute_after, entrypoint, payload, headers::text, attempts,
    dedupe_key, slot, updated, heartbeat, queue_manager_id
FROM {queue_table}
WHERE status = 'failed'
ORDER BY created, id
LIMIT $1::bigint
