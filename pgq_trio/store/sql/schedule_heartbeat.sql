-- Renew the leases of claimed schedules; `updated` is the fence of the claim.
--
-- $1 ids   $2 `updated` of each claim
UPDATE {schedules_table} schedule
SET heartbeat = now()
FROM unnest($1::bigint[], $2::timestamptz[]) AS claim(id, updated)
WHERE schedule.id = claim.id
  AND schedule.updated = claim.updated
  AND schedule.status = 'picked'
RETURNING schedule.id
