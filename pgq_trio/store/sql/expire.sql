-- Delete the old rows among the next rows of the log; those not folded yet are counted first.
--
-- $1 age in seconds   $2 states it holds for   $3 only rows behind this id   $4 how many to look at
-- $5 whether earlier rows of an ended job are kept for longer than its outcome
--
-- There is no index on times in a lean install, but ids are nearly in their order: the primary key
-- is walked from where the last batch ended.
WITH walked AS MATERIALIZED (
    SELECT
        entry.id,
        entry.created < now() - make_interval(secs => $1::float8) AS is_old,
        entry.status = ANY($2::text[]::{queue_status_type}[]) AS is_asked_for
    FROM {queue_table_log} entry
    WHERE entry.id > $3::bigint
    ORDER BY entry.id
    LIMIT $4::bigint
),
gone AS (
    DELETE FROM {queue_table_log} entry
    WHERE entry.id = ANY(ARRAY(SELECT id FROM walked WHERE is_old AND is_asked_for))
    RETURNING entry.id, entry.job_id, entry.created, entry.priority, entry.status,
        entry.entrypoint, entry.aggregated
),
-- The newest row tells the state of a job: without its outcome an ended one would seem to be lost.
before AS (
    DELETE FROM {queue_table_log} entry
    WHERE $5::bool
      AND entry.status IN ('queued', 'picked', 'failed')
      AND entry.job_id = ANY(ARRAY(
          SELECT job_id FROM gone WHERE status IN ('successful', 'exception', 'canceled', 'deleted')
      ))
    RETURNING entry.id, entry.job_id, entry.created, entry.priority, entry.status,
        entry.entrypoint, entry.aggregated
),
removed AS (
    SELECT * FROM gone
    UNION ALL
    SELECT * FROM before
),
written AS (
    INSERT INTO {statistics_table} AS kept (count, created, priority, status, entrypoint)
    SELECT count(*), date_trunc('sec', created), priority, status, entrypoint
    FROM removed
    WHERE NOT aggregated
    GROUP BY date_trunc('sec', created), priority, status, entrypoint
    ORDER BY date_trunc('sec', created)
    ON CONFLICT (priority, date_trunc('sec', timezone('UTC', created)), status, entrypoint)
    DO UPDATE SET count = kept.count + EXCLUDED.count
)
SELECT
    (SELECT count(*) FROM removed),
    count(*),
    count(*) FILTER (WHERE is_old),
    max(id),
    min(id) FILTER (WHERE NOT is_old),
    coalesce((SELECT max(id) FROM {queue_table_log}), 0)
FROM walked
