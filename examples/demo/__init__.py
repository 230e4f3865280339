"""A fleet of pods that is killed all the time, and the bill at the end."""
