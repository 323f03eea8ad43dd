"""The HTTP server: batches of concurrent queries, JSON APIs, and a page that shows answers side by side."""
