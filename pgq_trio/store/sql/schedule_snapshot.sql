-- Read all schedules and the store's now; the last row is there also without schedules.
--
-- No program has the times that a table may hold: 'infinity' and years of five digits. Each is read
-- as the nearest one of the years 100 to 9900, which leaves a century to calculate fire times in.
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
    status::text
FROM {schedules_table}
UNION ALL
SELECT NULL, NULL, NULL, now(), NULL, NULL, NULL, NULL, NULL
ORDER BY id NULLS LAST
