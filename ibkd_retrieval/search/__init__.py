"""Search: exact and approximate vector search, lexical search, fusion, reranking, runs and snippets."""
