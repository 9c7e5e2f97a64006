"""This library and its peers, measured side by side. Run a file from the root: `python -m benchmarks.run`."""
