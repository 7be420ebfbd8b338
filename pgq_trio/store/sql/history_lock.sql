-- Keep every other writer of statistics out until the end of the transaction.
--
-- PgQueuer folds without the advisory lock whenever somebody reads statistics, and counts what its
-- snapshot shows, flagged meanwhile or not. With this lock its statement waits before it takes the
-- snapshot. Nobody but who folds or deletes statistics writes them, so no worker waits.
LOCK TABLE {statistics_table} IN SHARE ROW EXCLUSIVE MODE
