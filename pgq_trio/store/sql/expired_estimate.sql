-- Estimate how many log rows are old enough to be deleted, from a sample of the table's pages.
--
-- $1 states   $2 age in seconds of each   $3 how many pages to read   $4 the log, as SQL text
WITH size AS (
    SELECT least(100, 100.0 * $3::float8 / greatest(1, pages))::float8 AS percent
    FROM (
        SELECT pg_catalog.pg_relation_size($4::text::regclass)
            / pg_catalog.current_setting('block_size')::int AS pages
    ) table_size
)
SELECT round(count(*) * 100 / (SELECT percent FROM size))::bigint
FROM {queue_table_log} entry TABLESAMPLE SYSTEM ((SELECT percent FROM size))
JOIN unnest($1::text[]::{queue_status_type}[], $2::float8[]) AS rule(status, age)
    ON rule.status = entry.status
WHERE entry.created < now() - make_interval(secs => rule.age)
