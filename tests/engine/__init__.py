"""The choreography, over scripted and real ports."""
