"""Tests of the housekeeping: the service, the history on PostgreSQL, what keeps track of it."""
