"""Vectors into an index folder, and back out: shards, faiss structures, the manifest, export."""
