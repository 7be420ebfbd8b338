"""Tests of the worker from its contract: handlers, outcomes, leases, limits."""
