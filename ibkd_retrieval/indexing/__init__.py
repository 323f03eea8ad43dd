"""Builds, changes, opens and exports index folders."""
