"""Measurements: ratios within one interleaved run; absolute figures belong to one machine only."""
