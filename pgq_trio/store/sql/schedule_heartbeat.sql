-- Renew the leases of claimed schedules; `updated` is the fence of the claim.
--
-- $1 ids   $2 `updated` of each claim
--
-- A schedule that was paused while it runs keeps its lease.
WITH owned AS MATERIALIZED (
    SELECT schedule.id, schedule.updated
    FROM {schedules_table} schedule
    JOIN unnest($1::bigint[], $2::timestamptz[]) AS claim(id, updated)
        ON schedule.id = claim.id AND schedule.updated = claim.updated
    WHERE schedule.status IN ('picked', 'canceled')
    ORDER BY schedule.id
    FOR UPDATE OF schedule
)
UPDATE {schedules_table} schedule
SET heartbeat = now()
FROM owned
WHERE schedule.id = owned.id
  AND schedule.updated = owned.updated
  AND schedule.status IN ('picked', 'canceled')
RETURNING schedule.id
