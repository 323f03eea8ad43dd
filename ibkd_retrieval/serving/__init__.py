"""The HTTP server: micro-batched queries, a JSON API, and a page that shows answers side by side."""
