"""The teacher: its vectors, several teachers as one, and graded labels."""
