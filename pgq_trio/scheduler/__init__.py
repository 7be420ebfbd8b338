"""Schedules: what is registered, and the loop that fires them; knows no SQL and no queue."""
