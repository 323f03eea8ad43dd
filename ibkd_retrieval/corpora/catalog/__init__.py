"""Known data sets: their short names, sizes, places on disk, and suites."""
