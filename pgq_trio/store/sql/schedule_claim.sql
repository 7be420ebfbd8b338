-- Take one fire of a schedule, if the row is still as its claimer saw it.
--
-- $1 id   $2 `updated` as seen   $3 `next_run` as seen   $4 the new `next_run`
-- $5 lease in seconds
--
-- Of several workers that saw the same fire the first changes `updated`, and the others, waiting
-- for its row lock, find nothing any more. What they saw is bounded as in schedule_snapshot.sql.
UPDATE {schedules_table} schedule
SET status = 'picked',
    updated = now(),
    heartbeat = now(),
    next_run = date_trunc('second', $4::timestamptz)
WHERE schedule.id = $1::bigint
  AND least(greatest(schedule.updated, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00')
      = $2::timestamptz
  AND least(greatest(schedule.next_run, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00')
      = $3::timestamptz
  AND (
      (schedule.status = 'queued' AND schedule.next_run <= now())
      OR (
          schedule.status = 'picked'
          AND schedule.heartbeat < now() - make_interval(secs => $5::float8)
      )
  )
RETURNING
    id,
    expression,
    entrypoint,
    heartbeat,
    least(greatest(created, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00'),
    updated,
    next_run,
    CASE WHEN last_run IS NOT NULL THEN
        least(greatest(last_run, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00')
    END,
    status::text
