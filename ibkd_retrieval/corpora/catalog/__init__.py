"""Known data sets: short names, sizes, files on disk, and suites."""
