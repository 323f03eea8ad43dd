"""A comparison of systems: quality, time, memory."""
