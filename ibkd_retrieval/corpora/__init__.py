"""Documents, queries and judgements, and the readers of their sources."""
