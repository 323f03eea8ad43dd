"""Models behind an embeddings endpoint in the form of OpenAI's API."""
