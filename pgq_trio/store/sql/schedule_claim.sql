-- Take one fire of a schedule, if the row is still as its claimer saw it.
--
-- $1 id   $2 `updated` as seen   $3 `next_run` as seen   $4 the new `next_run`
-- $5 lease in seconds
--
-- Of several workers that saw the same fire the first changes `updated`, and the others, waiting
-- for its row lock, find nothing any more.
UPDATE {schedules_table} schedule
SET status = 'picked',
    updated = now(),
    heartbeat = now(),
    next_run = date_trunc('second', $4::timestamptz)
WHERE schedule.id = $1::bigint
  AND schedule.updated = $2::timestamptz
  AND schedule.next_run = $3::timestamptz
  AND (
      (schedule.status = 'queued' AND schedule.next_run <= now())
      OR (
          schedule.status = 'picked'
          AND schedule.heartbeat < now() - make_interval(secs => $5::float8)
      )
  )
RETURNING id, expression, entrypoint, heartbeat, created, updated, next_run, last_run, status::text
