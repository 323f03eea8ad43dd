"""The stages of a build: plan, read, encode, write, finish."""
