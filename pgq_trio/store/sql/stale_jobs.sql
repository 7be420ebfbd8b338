-- Picked jobs whose last heartbeat is too long ago, the oldest first; by the index on heartbeats.
--
-- $1 how long ago, in seconds   $2 how many
--
-- Times are cut to what clients can hold, see claim.sql.
SELECT id, priority, queue_manager_id,
    greatest({first_time}, least({last_time}, created)),
    greatest({first_time}, least({last_time}, updated)),
    greatest({first_time}, least({last_time}, heartbeat)),
    greatest({first_time}, least({last_time}, execute_after)),
    status::text, entrypoint,
    extract(epoch FROM now() - greatest({first_time}, least({last_time}, heartbeat)))::float8
FROM {queue_table} job
WHERE job.status = 'picked' AND job.heartbeat < now() - make_interval(secs => $1::float8)
ORDER BY job.heartbeat, job.id
LIMIT $2::bigint
