"""Distil a text encoder, index a corpus with the student, search it, and measure what was gained and lost."""

__version__ = "0.1.0"
