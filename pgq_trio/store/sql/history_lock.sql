-- Keep every other writer of statistics out until the end of the transaction, or fail at once.
--
-- PgQueuer folds without the advisory lock whenever somebody reads statistics, and counts what its
-- snapshot shows, flagged meanwhile or not. With this lock its statement waits before it takes the
-- snapshot. Nobody but who folds or deletes statistics writes them, so no worker waits.
--
-- Every lock that keeps a writer out keeps VACUUM out too. To wait for it would mean to have it
-- cancelled, if the server had started it by itself, again at each pass: the next one comes soon.
LOCK TABLE {statistics_table} IN SHARE ROW EXCLUSIVE MODE NOWAIT
