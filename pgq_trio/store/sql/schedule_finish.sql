-- End a claimed fire, if the claim still owns the row.
--
-- $1 id   $2 `updated` of the claim   $3 `next_run` of the claim   $4 the new `next_run`, or NULL
-- $5 has it run?
--
-- With a new `next_run` the one of the claim is over. One that is not the claim's any more was set
-- meanwhile and stands; if it is past, it was triggered, and it is moved behind the fire times that
-- came while the fire ran, since nobody makes up for those. If the fire did not run, the earlier one
-- stands, so that the fire is due again; marked with a microsecond, as schedule_trigger.sql has it,
-- it stands for the trigger too. What is due in the end wakes the schedulers.
--
-- `updated` is later than the last heartbeat, also of one that overtook this: schedule_resume.sql
-- tells by it whether the run goes on. Times are bounded as in schedule_snapshot.sql.
WITH ended AS (
    UPDATE {schedules_table} schedule
    SET status = CASE schedule.status WHEN 'canceled' THEN 'canceled' ELSE 'queued' END
            ::{queue_status_type},
        updated = greatest(now(), schedule.heartbeat + interval '1 microsecond'),
        last_run = CASE WHEN $5::bool THEN now() ELSE schedule.last_run END,
        next_run = CASE
            WHEN $4::timestamptz IS NULL THEN schedule.next_run
            WHEN schedule.next_run = $3::timestamptz THEN $4
            WHEN $5 THEN
                CASE
                    WHEN schedule.next_run <= now()
                    THEN greatest(now(), date_trunc('second', now()) + interval '1 microsecond')
                    ELSE schedule.next_run
                END
            ELSE least(
                schedule.next_run,
                greatest($4, date_trunc('second', $4) + interval '1 microsecond')
            )
        END
    WHERE schedule.id = $1::bigint
      AND schedule.updated = $2::timestamptz
      AND schedule.status IN ('picked', 'canceled')
    RETURNING
        id, expression, entrypoint, heartbeat, created, updated, next_run, last_run, status::text
)
SELECT
    id,
    expression,
    entrypoint,
    least(greatest(heartbeat, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00'),
    least(greatest(created, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00'),
    least(greatest(updated, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00'),
    least(greatest(next_run, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00'),
    CASE WHEN last_run IS NOT NULL THEN
        least(greatest(last_run, '0100-01-01 00:00:00+00'), '9900-01-01 00:00:00+00')
    END,
    status
FROM ended
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM (
    SELECT {wake_schedulers}
    WHERE EXISTS (SELECT FROM ended WHERE status = 'queued' AND next_run <= now())
) woken
