"""Indexes behind HTTP: concurrent queries in batches, a JSON API, and a page that shows answers side by side."""
