"""Real PgQueuer and this package on one queue."""
