"""Tests of the declared schema against real catalogs."""
