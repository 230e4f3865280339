"""Pure decisions, one file for each file of core."""
