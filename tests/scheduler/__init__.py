"""Tests of the scheduler on the in-memory store and on PostgreSQL."""
