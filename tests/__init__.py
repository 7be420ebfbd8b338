"""The tests; helpers are imported as `tests.servers` and the like."""
