"""Async choreography: performs what a core decided and feeds back what happened."""
