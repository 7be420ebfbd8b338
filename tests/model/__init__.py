"""Tests of the pure rooms, and of how handlers are called."""
