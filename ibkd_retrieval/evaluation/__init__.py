"""Runs and judgements into numbers: metrics, significance, efficiency, comparison."""
