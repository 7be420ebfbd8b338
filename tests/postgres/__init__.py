"""Tests of `pgq_trio.postgres`."""
