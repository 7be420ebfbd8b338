-- Take due jobs of entrypoints without a limit, and picked ones whose lease has expired.
--
-- $1 worker uuid   $2 entrypoints text[]   $3 batch size   $4 lease in seconds   $5 log 'picked'?
--
-- Whatever is claimed here was locked here, so that two workers never wait for each other and
-- never get the same row: each slides over what the other has locked.
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
    FROM unnest($2::text[]) AS e(name)
),
candidate AS (
    -- Adding nothing to the time makes the planner walk down the priority index, whatever share of
    -- the rows it believes to be due; sorting a backlog that fell due meanwhile would take seconds.
    SELECT job.id, job.priority
    FROM entry
    CROSS JOIN LATERAL (
        SELECT q.id, q.priority
        FROM {queue_table} q
        WHERE NOT entry.by_time
          AND q.entrypoint = entry.name
          AND q.status = 'queued'
          AND q.execute_after + interval '0' < now()
        ORDER BY q.priority DESC, q.id
        LIMIT $3::int
        FOR UPDATE SKIP LOCKED
    ) job
    UNION ALL
    SELECT job.id, job.priority
    FROM entry
    CROSS JOIN LATERAL (
        SELECT due.id, due.priority
        FROM (
            SELECT early.id, early.priority
            FROM (
                -- More than the limit are never there: it is `by_time`'s bound.
                SELECT q.id, q.priority
                FROM {queue_table} q
                WHERE entry.by_time
                  AND q.entrypoint = entry.name
                  AND q.status = 'queued'
                  AND q.execute_after < now()
                ORDER BY q.execute_after
                LIMIT 20000
            ) early
            ORDER BY early.priority DESC, early.id
        ) due
        CROSS JOIN LATERAL (
            SELECT FROM {queue_table} q
            WHERE q.id = due.id AND q.status = 'queued'
            FOR UPDATE SKIP LOCKED
        ) locked
        ORDER BY due.priority DESC, due.id
        LIMIT $3::int
    ) job
    UNION ALL
    SELECT stale.id, stale.priority
    FROM (
        SELECT q.id, q.priority
        FROM {queue_table} q
        WHERE q.status = 'picked'
          AND q.heartbeat < now() - make_interval(secs => $4::float8)
          AND q.entrypoint = ANY($2::text[])
        ORDER BY q.priority DESC, q.id
        LIMIT $3::int
        FOR UPDATE SKIP LOCKED
    ) stale
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
        SELECT id FROM candidate ORDER BY priority DESC, id LIMIT $3::int
    ))
    RETURNING job.id, job.priority, job.created, job.execute_after, job.entrypoint, job.payload,
        job.headers, job.attempts, job.dedupe_key, job.slot
),
logged AS (
    INSERT INTO {queue_table_log} (job_id, status, priority, entrypoint)
    SELECT id, 'picked', priority, entrypoint
    FROM claimed
    WHERE $5::bool
)
SELECT id, priority, created, execute_after, entrypoint, payload, headers::text, attempts,
    dedupe_key, slot
FROM claimed
UNION ALL
-- The last row tells the store's now (as `created`) and when the next job is due, which is looked
-- up only when the batch is not full. This snapshot still shows the claimed rows as queued.
SELECT NULL, NULL, now(), (
        SELECT min(least(following.execute_after, now() + interval '100 years'))
        FROM entry
        CROSS JOIN LATERAL (
            SELECT q.execute_after
            FROM {queue_table} q
            WHERE q.entrypoint = entry.name
              AND q.status = 'queued'
              AND q.id NOT IN (SELECT id FROM claimed)
            ORDER BY q.execute_after
            LIMIT 1
        ) following
        WHERE (SELECT count(*) FROM claimed) < $3::int
    ), NULL, NULL, NULL, NULL, NULL, NULL
ORDER BY priority DESC NULLS LAST, id
