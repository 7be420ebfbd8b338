-- Count the log rows that are not folded yet.
--
-- A scan, unless the database has PgQueuer's index on them: keeping one up to date would cost every
-- job more than this count is worth.
SELECT count(*) FROM {queue_table_log} entry WHERE NOT entry.aggregated
