"""The options of the commands, by group."""
