"""Text to vectors: loading, batching, encoding, and how a student is born."""
