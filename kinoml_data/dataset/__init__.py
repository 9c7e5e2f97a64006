"""The torch dataset over an open storage: rows, splits, views and batches."""
