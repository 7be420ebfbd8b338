-- Take due jobs of entrypoints without a limit, and picked ones whose lease has expired.
--
-- $1 worker uuid   $2 entrypoints text[]   $3 batch size   $4 lease in seconds   $5 log 'picked'?
--
-- About the plan. Parameters hide in sub-selects, so that the planner has nothing to gain from
-- planning the statement anew for each claim, which takes longer than a small claim itself. It takes
-- such a LIMIT for a tenth of the table; the LIMIT 10000 around it, the size of the largest batch,
-- keeps the estimate near the truth.
--
-- Whatever is claimed here was locked here, so that two workers never wait for each other and
-- never get the same row: each slides over what the other has locked.
--
-- A row may change between this statement's snapshot and its lock: what makes it claimable is asked
-- again where it is locked.
--
-- A rescue is logged in any case: lost_runs.sql counts them.
--
-- Anybody who writes SQL can put times into a row that clients cannot hold, infinite ones at that;
-- the claim would be committed, and its answer the end of the worker. They are cut to what can be.
WITH entry AS MATERIALIZED (
    -- Rows deferred into the future stand among the due ones in the priority index, and a walk
    -- has to step over each of them. Where there are many, and the due ones are few, the due ones
    -- are read from the index on their times and sorted instead: cost follows the due rows.
    -- Both counts stop early; an entrypoint without deferred rows pays one index probe. The order
    -- asked for inside the counts keeps the planner from scanning the table.
    SELECT
        e.name,
        (
            SELECT count(*) FROM (
                SELECT FROM {queue_table} q
                WHERE q.entrypoint = e.name AND q.status = 'queued' AND q.execute_after >= now()
                ORDER BY q.execute_after
                LIMIT 1000
            ) deferred
        ) >= 1000
        AND (
            SELECT count(*) FROM (
                SELECT FROM {queue_table} q
                WHERE q.entrypoint = e.name AND q.status = 'queued' AND q.execute_after < now()
                ORDER BY q.execute_after
                LIMIT 20000
            ) due
        ) < 20000 AS by_time
    FROM unnest((SELECT $2::text[])) AS e(name)
),
stale AS MATERIALIZED (
    SELECT q.id, q.priority
    FROM {queue_table} q
    WHERE q.status = 'picked'
      AND q.heartbeat < now() - make_interval(secs => $4::float8)
      AND q.entrypoint = ANY((SELECT $2::text[])::text[])
    ORDER BY q.priority DESC, q.id
    LIMIT (SELECT $3::int)
    FOR UPDATE SKIP LOCKED
),
candidate AS (
    -- Adding nothing to the time makes the planner walk down the priority index, whatever share of
    -- the rows it believes to be due; sorting a backlog that fell due meanwhile would take seconds.
    SELECT job.id, job.priority
    FROM entry
    CROSS JOIN LATERAL (
        SELECT walked.id, walked.priority
        FROM (
            SELECT q.id, q.priority
            FROM {queue_table} q
            WHERE NOT entry.by_time
              AND q.entrypoint = entry.name
              AND q.status = 'queued'
              AND q.execute_after + interval '0' < now()
            ORDER BY q.priority DESC, q.id
            LIMIT (SELECT $3::int)
            FOR UPDATE SKIP LOCKED
        ) walked
        LIMIT 10000
    ) job
    UNION ALL
    SELECT job.id, job.priority
    FROM entry
    CROSS JOIN LATERAL (
        SELECT q.id, q.priority
        FROM {queue_table} q
        WHERE q.id = ANY(ARRAY(
            SELECT early.id
            FROM (
                SELECT d.id, d.priority
                FROM {queue_table} d
                WHERE entry.by_time
                  AND d.entrypoint = entry.name
                  AND d.status = 'queued'
                  AND d.execute_after < now()
                ORDER BY d.execute_after
                LIMIT 20000
            ) early
            ORDER BY early.priority DESC, early.id
            LIMIT (SELECT 3 * $3::int + 100)
        ))
          AND q.status = 'queued'
          AND q.execute_after + interval '0' < now()
        ORDER BY q.priority DESC, q.id
        LIMIT (SELECT $3::int)
        FOR UPDATE SKIP LOCKED
    ) job
    UNION ALL
    SELECT stale.id, stale.priority FROM stale
),
claimed AS (
    UPDATE {queue_table} job
    SET status = 'picked',
        queue_manager_id = $1::uuid,
        updated = now(),
        heartbeat = now(),
        attempts = job.attempts + (job.status = 'picked')::int,
        -- A rescue keeps the slot; what an earlier run left behind on a queued row is none.
        slot = CASE WHEN job.status = 'picked' THEN job.slot END
    WHERE job.id = ANY(ARRAY(
        SELECT id FROM candidate ORDER BY priority DESC, id LIMIT (SELECT $3::int)
    ))
    RETURNING job.id, job.priority, job.created, job.execute_after, job.entrypoint, job.payload,
        job.headers, job.attempts, job.dedupe_key, job.slot
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'picked', priority, entrypoint
    FROM claimed
    WHERE $5::bool OR id IN (SELECT id FROM stale)
)
SELECT id, priority,
    greatest({first_time}, least({last_time}, created)),
    greatest({first_time}, least({last_time}, execute_after)),
    entrypoint, payload, headers::text, attempts, dedupe_key, slot
FROM claimed
UNION ALL
-- The last row tells the store's now (as `created`); when the next job is due, which is looked up
-- only when the batch is not full (this snapshot still shows the claimed rows as queued); as JSON,
-- which of the claimed jobs were rescued; and in how many seconds, as text, the next of those that
-- are not due yet is, looked up likewise.
SELECT NULL, NULL, now(), following.due, (
        SELECT json_agg(id)::text
        FROM claimed
        WHERE (SELECT EXISTS (SELECT FROM stale))
          AND id IN (SELECT id FROM stale)
    ), NULL, following.later, NULL, NULL, NULL
FROM (
    SELECT
        min((
            SELECT greatest(
                {first_time}, least(now() + interval '100 years', q.execute_after)
            )
            FROM {queue_table} q
            WHERE q.entrypoint = entry.name
              AND q.status = 'queued'
              AND q.id NOT IN (SELECT id FROM claimed)
            ORDER BY q.execute_after
            LIMIT 1
        )) AS due,
        extract(epoch FROM min(
            (
                SELECT least(now() + interval '100 years', q.execute_after)
                FROM {queue_table} q
                WHERE q.entrypoint = entry.name
                  AND q.status = 'queued'
                  AND q.execute_after >= now()
                ORDER BY q.execute_after
                LIMIT 1
            )
        ) - now())::text AS later
    FROM entry
    WHERE (SELECT count(*) FROM claimed) < $3::int
) following
ORDER BY priority DESC NULLS LAST, id
