"""`kinoml-data doctor`: says why a dataset is slow or large, what to change, and what the change gains."""
