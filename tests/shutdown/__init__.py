"""Tests of every way a run may end."""
