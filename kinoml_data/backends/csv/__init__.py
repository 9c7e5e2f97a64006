"""Text tables: the backend `csv`."""
