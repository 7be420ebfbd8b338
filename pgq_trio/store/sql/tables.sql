-- Size and persistence of tables, by name; one that is not there is left out.
--
-- $1 their names as SQL text
SELECT
    relname::text,
    CASE relpersistence WHEN 'p' THEN 'LOGGED' WHEN 'u' THEN 'UNLOGGED' ELSE relpersistence::text END,
    greatest(0, reltuples)::bigint,
    pg_catalog.pg_size_pretty(pg_catalog.pg_total_relation_size(oid))
FROM pg_catalog.pg_class
WHERE oid = ANY(ARRAY(SELECT pg_catalog.to_regclass(name)::oid FROM unnest($1::text[]) AS name))
ORDER BY relname
