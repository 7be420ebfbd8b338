-- Take jobs as claim.sql does, when some entrypoints have a fleet-wide concurrency limit.
--
-- $1 worker uuid   $2 entrypoints text[]   $3 batch size   $4 lease in seconds   $5 log 'picked'?
-- $6 limit of each entrypoint, 0 without   $7 how many claimed jobs may be of limited entrypoints
--
-- A fresh claim of a limited entrypoint takes its lowest free slot. Two workers may see the same
-- slot as free: the unique index on (entrypoint, slot) lets one of them through, and the other
-- claims again. So that it seldom comes to this, the window of candidates is fixed before the rows
-- are locked: sliding down the backlog would find a row, but no seat for it.
WITH entry AS MATERIALIZED (
    -- `by_time` is explained in claim.sql.
    SELECT
        e.name,
        e.seats,
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
        ) < 20000 AS by_time,
        (
            SELECT count(*) FROM {queue_table} q
            WHERE e.seats > 0
              AND q.entrypoint = e.name AND q.status = 'picked' AND q.slot IS NOT NULL
        ) AS taken
    FROM unnest((SELECT $2::text[]), (SELECT $6::bigint[])) AS e(name, seats)
),
free AS MATERIALIZED (
    -- Among the first taken + batch seats at least a batch of them is free, if there are so many.
    SELECT entry.name, seat.slot,
        row_number() OVER (PARTITION BY entry.name ORDER BY seat.slot) AS rank
    FROM entry
    CROSS JOIN LATERAL generate_series(
        0, least(entry.seats, entry.taken + least($3::int, $7::int)) - 1
    ) AS seat(slot)
    WHERE entry.seats > entry.taken
      AND NOT EXISTS (
          SELECT FROM {queue_table} holder
          WHERE holder.entrypoint = entry.name
            AND holder.status = 'picked'
            AND holder.slot = seat.slot
      )
),
slotless AS MATERIALIZED (
    -- PgQueuer counts each job that has an owner, in a slot or not: one that was claimed by a worker
    -- that knows no limit takes a seat away, too. Not looked at while no seat is free.
    SELECT q.entrypoint AS name, count(*) AS jobs
    FROM {queue_table} q
    WHERE (SELECT EXISTS (SELECT FROM free))
      AND q.status = 'picked'
      AND q.slot IS NULL
      AND q.entrypoint IN (SELECT name FROM free)
    GROUP BY q.entrypoint
),
room AS MATERIALIZED (
    SELECT
        entry.name,
        entry.by_time,
        least(
            count(*), entry.seats - entry.taken - coalesce(slotless.jobs, 0), $3::int, $7::int
        ) AS seats
    FROM entry
    JOIN free ON free.name = entry.name
    LEFT JOIN slotless ON slotless.name = entry.name
    WHERE entry.seats - entry.taken > coalesce(slotless.jobs, 0)
    GROUP BY entry.name, entry.by_time, entry.seats, entry.taken, slotless.jobs
),
fresh_unlimited AS (
    SELECT job.id, job.priority
    FROM entry
    CROSS JOIN LATERAL (
        SELECT walked.id, walked.priority
        FROM (
            SELECT q.id, q.priority
            FROM {queue_table} q
            WHERE NOT entry.by_time
              AND entry.seats = 0
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
                  AND entry.seats = 0
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
),
fresh_limited AS (
    SELECT job.id, job.priority, room.name
    FROM room
    CROSS JOIN LATERAL (
        SELECT q.id, q.priority
        FROM {queue_table} q
        WHERE q.id = ANY(ARRAY(
            SELECT walked.id
            FROM (
                SELECT d.id
                FROM {queue_table} d
                WHERE NOT room.by_time
                  AND d.entrypoint = room.name
                  AND d.status = 'queued'
                  AND d.execute_after + interval '0' < now()
                ORDER BY d.priority DESC, d.id
                LIMIT room.seats
            ) walked
            UNION ALL
            SELECT sorted.id
            FROM (
                SELECT early.id
                FROM (
                    SELECT d.id, d.priority
                    FROM {queue_table} d
                    WHERE room.by_time
                      AND d.entrypoint = room.name
                      AND d.status = 'queued'
                      AND d.execute_after < now()
                    ORDER BY d.execute_after
                    LIMIT 20000
                ) early
                ORDER BY early.priority DESC, early.id
                LIMIT room.seats
            ) sorted
        ))
          AND q.status = 'queued'
          AND q.execute_after + interval '0' < now()
        FOR UPDATE SKIP LOCKED
    ) job
),
stale AS MATERIALIZED (
    -- A rescue needs no free seat: it keeps the one its row has.
    SELECT q.id, q.priority, q.entrypoint
    FROM {queue_table} q
    WHERE q.status = 'picked'
      AND q.heartbeat < now() - make_interval(secs => $4::float8)
      AND q.entrypoint = ANY((SELECT $2::text[])::text[])
    ORDER BY q.priority DESC, q.id
    FOR UPDATE SKIP LOCKED
),
chosen AS MATERIALIZED (
    SELECT id, priority, name
    FROM (
        SELECT id, priority, NULL AS name FROM fresh_unlimited
        UNION ALL
        SELECT stale.id, stale.priority, NULL
        FROM stale
        JOIN entry ON entry.name = stale.entrypoint AND entry.seats = 0
        UNION ALL
        SELECT id, priority, name
        FROM (
            SELECT id, priority, name FROM fresh_limited
            UNION ALL
            SELECT stale.id, stale.priority, NULL
            FROM stale
            JOIN entry ON entry.name = stale.entrypoint AND entry.seats > 0
            ORDER BY priority DESC, id
            LIMIT (SELECT $7::int)
        ) limited
    ) candidate
    ORDER BY priority DESC, id
    LIMIT (SELECT $3::int)
),
seated AS MATERIALIZED (
    SELECT ranked.id, free.slot
    FROM (
        SELECT id, name,
            row_number() OVER (PARTITION BY name ORDER BY priority DESC, id) AS rank
        FROM chosen
        WHERE name IS NOT NULL
    ) ranked
    JOIN free ON free.name = ranked.name AND free.rank = ranked.rank
),
claimed AS (
    UPDATE {queue_table} job
    SET status = 'picked',
        queue_manager_id = $1::uuid,
        updated = now(),
        heartbeat = now(),
        attempts = job.attempts + (job.status = 'picked')::int,
        slot = CASE
            WHEN job.status = 'picked' THEN job.slot
            ELSE (SELECT seated.slot FROM seated WHERE seated.id = job.id)
        END
    WHERE job.id = ANY(ARRAY(SELECT id FROM chosen))
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
            -- While an entrypoint has no free seat, or the claimer none for it, its jobs are of no
            -- use: who frees one tells.
            CASE WHEN entry.seats = 0
                OR (
                    SELECT count(*)
                    FROM claimed
                    WHERE claimed.entrypoint IN (SELECT name FROM entry WHERE seats > 0)
                ) < $7::int
                AND (SELECT count(*) FROM chosen WHERE chosen.name = entry.name)
                    < (SELECT room.seats FROM room WHERE room.name = entry.name)
            THEN (
                SELECT least(now() + interval '100 years', q.execute_after)
                FROM {queue_table} q
                WHERE q.entrypoint = entry.name
                  AND q.status = 'queued'
                  AND q.execute_after >= now()
                ORDER BY q.execute_after
                LIMIT 1
            ) END
        ) - now())::text AS later
    FROM entry
    WHERE (SELECT count(*) FROM claimed) < $3::int
) following
ORDER BY priority DESC NULLS LAST, id
