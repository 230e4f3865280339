"""The way out: attempts at tool calls, and tunnels."""
