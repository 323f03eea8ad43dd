"""Runs: ranked results of many queries, in memory and in files."""
