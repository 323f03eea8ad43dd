"""Retrieval metrics of a run against judgements."""
