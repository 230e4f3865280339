"""The command line, its settings, and what a sidecar shows of itself."""
