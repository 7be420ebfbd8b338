-- Make schedules due now, and wake the schedulers; paused ones stay as they are.
--
-- $1 ids   $2 entrypoints
--
-- A fire time is a whole second, so what is none was triggered and fires whatever its misfire policy
-- says. A row that is due keeps its fire time, or the ones after it would be forgotten: a microsecond
-- marks it. It cannot mark '-infinity', which is read as the year 100, see schedule_snapshot.sql.
WITH found AS MATERIALIZED (
    SELECT schedule.id
    FROM {schedules_table} schedule
    WHERE schedule.status IN ('queued', 'picked')
      AND (schedule.id = ANY($1::bigint[]) OR schedule.entrypoint = ANY($2::text[]))
    ORDER BY schedule.id
    FOR UPDATE
),
triggered AS (
    UPDATE {schedules_table} schedule
    SET next_run = CASE
        WHEN schedule.next_run <= now()
        THEN greatest(
            schedule.next_run,
            date_trunc('second', greatest(schedule.next_run, '0100-01-01 00:00:00+00'))
                + interval '1 microsecond'
        )
        ELSE greatest(now(), date_trunc('second', now()) + interval '1 microsecond')
    END
    WHERE schedule.id = ANY(ARRAY(SELECT id FROM found))
      AND schedule.status IN ('queued', 'picked')
    RETURNING schedule.id
)
SELECT id FROM triggered
UNION ALL
SELECT NULL
FROM (
    SELECT {wake_schedulers}
    WHERE EXISTS (SELECT FROM triggered)
) woken
