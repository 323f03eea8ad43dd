"""Which backend and number format run a model fastest on this machine."""
