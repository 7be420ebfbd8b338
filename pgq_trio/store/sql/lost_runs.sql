-- Count how often in a row rescued jobs were claimed without an outcome, this time included, as far
-- as it was logged.
--
-- $1 ids
--
-- These are the 'picked' rows of a job's log since any other. Rescues are logged in any case, first
-- claims only with the full history. Not part of the claim: what it would seem to cost there made
-- the server plan each claim anew.
SELECT job.id, (
        SELECT count(*)
        FROM {queue_table_log} picked
        WHERE picked.job_id = job.id
          AND picked.status = 'picked'
          AND picked.created > coalesce((
                  SELECT max(other.created)
                  FROM {queue_table_log} other
                  WHERE other.job_id = job.id AND other.status <> 'picked'
              ), '-infinity')
    )
FROM unnest($1::bigint[]) AS job(id)
