"""Seeded simulation: pods, zombies, crashes and stores that misbehave."""
