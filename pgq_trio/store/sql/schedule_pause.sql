-- Keep schedules from firing; `updated` stays, since it is the fence of a run that goes on.
--
-- $1 ids   $2 entrypoints
--
-- Rows are locked in the order of their ids, here and wherever several of them are changed: two
-- such statements cannot wait for each other.
WITH found AS MATERIALIZED (
    SELECT schedule.id
    FROM {schedules_table} schedule
    WHERE schedule.id = ANY($1::bigint[]) OR schedule.entrypoint = ANY($2::text[])
    ORDER BY schedule.id
    FOR UPDATE
)
UPDATE {schedules_table} schedule
SET status = 'canceled'
WHERE schedule.id = ANY(ARRAY(SELECT id FROM found))
RETURNING schedule.id
