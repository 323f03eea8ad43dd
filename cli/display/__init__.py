"""Output of the commands: progress, answers and tables."""
