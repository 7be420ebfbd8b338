-- Delete schedules by id or by entrypoint.
--
-- $1 ids   $2 entrypoints
DELETE FROM {schedules_table} schedule
WHERE schedule.id = ANY($1::bigint[]) OR schedule.entrypoint = ANY($2::text[])
RETURNING schedule.id
