"""Pure decisions: no async, no clock, no I/O, no logging. Time and randomness are arguments."""
