"""Queries into ranked documents: exact and approximate search, runs in memory and on disk, snippets."""
