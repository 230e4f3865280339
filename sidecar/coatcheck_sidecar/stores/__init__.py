"""Implementations of the Journal and Store ports."""
