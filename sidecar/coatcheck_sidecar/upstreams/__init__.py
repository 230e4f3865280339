"""Implementations of the Upstream port."""
