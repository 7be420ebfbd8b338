-- A page of the queue table in the order of claims.
--
-- $1 states or NULL   $2 entrypoints or NULL   $3 how many   $4 how many to leave out before them
--
-- A scan that keeps the best rows: the index in this order is PgQueuer's, costs every job and
-- serves nothing else. Times are cut to what clients can hold, see claim.sql.
SELECT id, priority,
    greatest({first_time}, least({last_time}, created)),
    greatest({first_time}, least({last_time}, execute_after)),
    entrypoint, payload, headers::text, attempts, dedupe_key, slot, status::text,
    greatest({first_time}, least({last_time}, updated)),
    greatest({first_time}, least({last_time}, heartbeat)),
    queue_manager_id
FROM {queue_table} job
WHERE ($1::text[] IS NULL OR job.status = ANY($1::text[]::{queue_status_type}[]))
  AND ($2::text[] IS NULL OR job.entrypoint = ANY($2::text[]))
ORDER BY job.priority DESC, job.id
LIMIT $3::bigint OFFSET $4::bigint
