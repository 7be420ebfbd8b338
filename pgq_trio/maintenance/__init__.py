"""Housekeeping beside the jobs: the history is folded and kept small; knows no jobs and no SQL."""
