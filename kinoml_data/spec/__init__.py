"""Specs, which describe datasets, their parts, and the files that they are read from."""
