-- Sum the statistics by entrypoint and state.
--
-- $1 of the last so many seconds, NULL for all
--
-- A scan: each row stands for many log rows, and the table is small beside the log.
SELECT entrypoint, status::text, sum(count)::bigint
FROM {statistics_table} kept
WHERE $1::float8 IS NULL OR kept.created > now() - make_interval(secs => $1::float8)
GROUP BY kept.entrypoint, kept.status
ORDER BY kept.entrypoint COLLATE "C", kept.status
