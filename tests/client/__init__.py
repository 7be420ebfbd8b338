"""Tests of asking for work and waiting for it."""
