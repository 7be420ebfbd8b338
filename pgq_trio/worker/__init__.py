"""The queue's side of one run: claiming, running, renewing and finishing jobs."""
