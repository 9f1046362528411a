"""Configurations of the systems, one file each, importable without torch."""
