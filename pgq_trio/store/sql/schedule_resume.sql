-- Have paused schedules fire again, and wake the schedulers.
--
-- $1 ids   $2 entrypoints
--
-- One whose run goes on is picked again, else it would be run a second time beside that. A run goes
-- on where no end was written after the last heartbeat; a new row, never run, has three equal times.
-- Should the worker of that run be gone, the row is taken over like any other.
WITH found AS MATERIALIZED (
    SELECT schedule.id
    FROM {schedules_table} schedule
    WHERE schedule.status = 'canceled'
      AND (schedule.id = ANY($1::bigint[]) OR schedule.entrypoint = ANY($2::text[]))
    ORDER BY schedule.id
    FOR UPDATE
),
resumed AS (
    UPDATE {schedules_table} schedule
    SET status = CASE
        WHEN schedule.heartbeat >= schedule.updated AND schedule.updated > schedule.created
        THEN 'picked'
        ELSE 'queued'
    END::{queue_status_type}
    WHERE schedule.id = ANY(ARRAY(SELECT id FROM found))
      AND schedule.status = 'canceled'
    RETURNING schedule.id
)
SELECT id FROM resumed
UNION ALL
SELECT NULL
FROM (
    SELECT {wake_schedulers}
    WHERE EXISTS (SELECT FROM resumed)
) woken
