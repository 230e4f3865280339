"""Inbound servers: the control socket and the admin endpoints."""
