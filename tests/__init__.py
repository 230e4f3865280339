"""What shows that each promise holds."""
