-- The last known state of jobs: the row's if there is one, else the newest log row's.
--
-- $1 ids   $2 always 1
--
-- A row goes and its outcome is logged in one statement, so one snapshot shows both or neither. A
-- row that is gone while its log ends in no final state was truncated or deleted by hand. The
-- newest log row is the one with the highest id: `created` is when its transaction began, which
-- may have waited for the row.
--
-- There may be very many ids. A plan that was made once for all values while the queue was empty
-- would compare each of them with each of the rows that have come since: 8 s for ten thousand. The
-- count of one row is there because such a plan has to expect a million, so that the statement is
-- planned for what there is, each time.
SELECT DISTINCT ON (known.id) known.id,
    CASE
        WHEN known.entry IS NOT NULL AND known.status IN ('queued', 'picked', 'failed')
            THEN 'deleted'
        ELSE known.status
    END::text
FROM (
    SELECT job.id, job.status, NULL::bigint AS entry
    FROM {queue_table} job
    WHERE job.id = ANY($1::bigint[])
    UNION ALL
    SELECT logged.job_id, logged.status, logged.id
    FROM {queue_table_log} logged
    WHERE logged.job_id = ANY($1::bigint[])
) known
WHERE (SELECT count(*) FROM generate_series(1, $2::int) a, generate_series(1, $2::int) b) = 1
ORDER BY known.id, known.entry DESC NULLS FIRST
