"""Text to vectors: models are loaded, texts are batched and encoded, and students are initialised."""
