"""Vectors that other tools made into an index folder: one file for each form they come in."""
