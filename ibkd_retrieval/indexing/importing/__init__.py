"""Imports vectors of other tools into an index folder. Each format has its own module."""
