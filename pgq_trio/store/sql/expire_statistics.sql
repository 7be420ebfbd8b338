-- Delete the oldest statistics.
--
-- $1 age in seconds   $2 how many to look at
--
-- Ids are nearly in the order of time; a row that was folded late goes late.
WITH walked AS MATERIALIZED (
    SELECT id, created < now() - make_interval(secs => $1::float8) AS is_old
    FROM {statistics_table}
    ORDER BY id
    LIMIT $2::bigint
),
gone AS (
    DELETE FROM {statistics_table} kept
    WHERE kept.id = ANY(ARRAY(SELECT id FROM walked WHERE is_old))
    RETURNING 1
)
SELECT count(*) FROM gone
