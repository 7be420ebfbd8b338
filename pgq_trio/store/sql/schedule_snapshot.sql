-- Read all schedules and the store's now; the last row is there also without schedules.
SELECT id, expression, entrypoint, heartbeat, created, updated, next_run, last_run, status::text
FROM {schedules_table}
UNION ALL
SELECT NULL, NULL, NULL, now(), NULL, NULL, NULL, NULL, NULL
ORDER BY id NULLS LAST
