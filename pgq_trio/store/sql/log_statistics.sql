-- Read statistics, the newest first.
--
-- $1 how many, NULL for all   $2 of the last so many seconds, NULL for all
--
-- In the order in which the seconds were first counted: the primary key, read backwards.
SELECT count, created, entrypoint, priority, status::text
FROM {statistics_table} kept
WHERE $2::float8 IS NULL OR kept.created > now() - make_interval(secs => $2::float8)
ORDER BY kept.id DESC
LIMIT $1::bigint
