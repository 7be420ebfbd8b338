"""Tests of the resources contract: one file for each row of its table."""
