-- Read held jobs, the last created first.
--
-- $1 how many
SELECT id, priority, created, execute_after, entrypoint, payload, headers::text, attempts,
    dedupe_key, slot, updated, heartbeat, queue_manager_id
FROM {queue_table}
WHERE status = 'failed'
ORDER BY created DESC, id DESC
LIMIT $1::bigint
