-- Renew leases: the heartbeat and nothing else, since `updated` is the fence of the claim.
--
-- $1 worker uuid   $2 ids   $3 `updated` of each claim
--
-- `owned` is explained in finish_successful.sql.
WITH owned AS MATERIALIZED (
    SELECT claim.id
    FROM unnest($2::bigint[], $3::timestamptz[]) AS claim(id, updated)
    CROSS JOIN LATERAL (
        SELECT
        FROM {queue_table} q
        WHERE q.id = claim.id
          AND q.updated = claim.updated
          AND q.queue_manager_id IS NOT DISTINCT FROM $1::uuid
        OFFSET 0
    ) job
)
UPDATE {queue_table} job
SET heartbeat = now()
WHERE job.id = ANY(ARRAY(SELECT id FROM owned))
  AND job.updated = ANY($3::timestamptz[])
  AND job.queue_manager_id IS NOT DISTINCT FROM $1::uuid
RETURNING job.id
