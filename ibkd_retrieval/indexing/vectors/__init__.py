"""The vectors of an index: where they come from, and exact search over them."""
