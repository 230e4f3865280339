"""Measurements beside their floors: `python -m bench [workload ...]`."""
