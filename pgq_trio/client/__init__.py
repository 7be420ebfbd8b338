"""Asking for work and asking about it; it runs nothing."""
