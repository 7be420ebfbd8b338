-- Delete the log rows of some entrypoints, of all with NULL.
--
-- $1 entrypoints text[] or NULL
WITH removed AS (
    DELETE FROM {queue_table_log} entry
    WHERE $1::text[] IS NULL OR entry.entrypoint = ANY($1::text[])
    RETURNING 1
)
SELECT count(*) FROM removed
