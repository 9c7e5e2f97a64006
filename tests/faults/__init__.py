"""Proofs that what goes wrong is found: damaged and hostile files, failing systems. `python -m tests.faults NAME`."""
