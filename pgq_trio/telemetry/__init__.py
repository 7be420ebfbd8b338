"""Telling observers what happens; it decides nothing."""
