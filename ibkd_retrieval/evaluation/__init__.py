"""Evaluation: metrics of runs, significance tests, efficiency, and comparisons of systems."""
