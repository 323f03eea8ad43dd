"""What the commands print: progress, answers, tables."""
