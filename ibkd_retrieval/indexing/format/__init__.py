"""The files of an index folder: layout, manifest, shards, checksums."""
