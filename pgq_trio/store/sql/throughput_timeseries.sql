-- Sum the statistics by minute, entrypoint and state, the oldest minute first.
--
-- $1 of the last so many seconds
--
-- A scan, as in throughput.sql.
SELECT date_trunc('minute', created, 'UTC'), entrypoint, status::text, sum(count)::bigint
FROM {statistics_table} kept
WHERE kept.created > now() - make_interval(secs => $1::float8)
GROUP BY date_trunc('minute', kept.created, 'UTC'), kept.entrypoint, kept.status
ORDER BY date_trunc('minute', kept.created, 'UTC'), kept.entrypoint COLLATE "C", kept.status
