-- Count some log rows into the statistics and mark them as counted.
--
-- $1 only rows behind this id   $2 how many
--
-- What is counted is what the UPDATE returns, so a row that somebody else has marked or deleted
-- is not counted. On a lean install no index leads to unmarked rows: $1 (see log_marks.py) bounds
-- how much of the primary key is walked for them. `id = ANY(ARRAY(...))` keeps the planner from
-- joining by a scan of the whole log. New seconds are written in their order, in which
-- log_statistics.sql reads them.
WITH chosen AS MATERIALIZED (
    SELECT entry.id
    FROM {queue_table_log} entry
    WHERE NOT entry.aggregated AND entry.id > $1::bigint
    ORDER BY entry.id
    LIMIT $2::bigint
),
counted AS (
    UPDATE {queue_table_log} entry
    SET aggregated = true
    WHERE entry.id = ANY(ARRAY(SELECT id FROM chosen)) AND NOT entry.aggregated
    RETURNING entry.created, entry.priority, entry.status, entry.entrypoint
),
written AS (
    INSERT INTO {statistics_table} AS kept (count, created, priority, status, entrypoint)
    SELECT count(*), date_trunc('sec', created), priority, status, entrypoint
    FROM counted
    GROUP BY date_trunc('sec', created), priority, status, entrypoint
    ORDER BY date_trunc('sec', created)
    ON CONFLICT (priority, date_trunc('sec', timezone('UTC', created)), status, entrypoint)
    DO UPDATE SET count = kept.count + EXCLUDED.count
)
SELECT
    (SELECT count(*) FROM counted),
    (SELECT count(*) FROM chosen),
    (SELECT max(id) FROM chosen),
    coalesce((SELECT max(id) FROM {queue_table_log}), 0),
    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint,
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
