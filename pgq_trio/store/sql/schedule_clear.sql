-- Delete all schedules.
DELETE FROM {schedules_table} schedule
RETURNING schedule.id
