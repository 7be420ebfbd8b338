"""One test for each failure of other queues that must not happen here."""
