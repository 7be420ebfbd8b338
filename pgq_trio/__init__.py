"""The front door: what users import, and nothing else."""
