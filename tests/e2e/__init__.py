"""Real processes and real stores, killed at every point."""
