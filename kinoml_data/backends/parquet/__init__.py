"""Parquet files: the backend `parquet-awkward`."""
