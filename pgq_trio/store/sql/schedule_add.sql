-- Insert those schedules that are not there yet.
--
-- $1 entrypoints   $2 expressions   $3 first fire times
INSERT INTO {schedules_table} (entrypoint, expression, next_run)
SELECT entrypoint, expression, date_trunc('second', next_run)
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) WITH ORDINALITY
    AS schedule(entrypoint, expression, next_run, place)
ORDER BY place
ON CONFLICT (expression, entrypoint) DO NOTHING
