-- Delete the statistics of some entrypoints, of all with NULL.
--
-- $1 entrypoints text[] or NULL
--
-- A scan: it is rare, and takes a large part of the table.
WITH removed AS (
    DELETE FROM {statistics_table} kept
    WHERE $1::text[] IS NULL OR kept.entrypoint = ANY($1::text[])
    RETURNING 1
)
SELECT count(*) FROM removed
