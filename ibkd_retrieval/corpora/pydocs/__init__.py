"""The embedded corpus: the documentation of the Python packages on this machine."""
