"""What a job is and what may happen to it: pure, synchronous, no clock and no I/O."""
