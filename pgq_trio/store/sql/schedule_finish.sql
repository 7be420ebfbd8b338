-- End a claimed fire, if the claim still owns the row.
--
-- $1 id   $2 `updated` of the claim   $3 when the fire is due again if it was interrupted, or NULL
UPDATE {schedules_table} schedule
SET status = 'queued',
    updated = now(),
    last_run = CASE WHEN $3::timestamptz IS NULL THEN now() ELSE schedule.last_run END,
    next_run = coalesce(date_trunc('second', $3::timestamptz), schedule.next_run)
WHERE schedule.id = $1::bigint
  AND schedule.updated = $2::timestamptz
  AND schedule.status = 'picked'
RETURNING schedule.id
