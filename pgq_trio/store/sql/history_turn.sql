-- Take the turn at the history until the end of the transaction, if nobody has it.
--
-- $1 name of the statistics table as PgQueuer writes it
--
-- It is the lock under which PgQueuer folds.
SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext($1::text))
