"""A dataset of 20 numbered rows."""

import numpy as np

import kinoml_data as kd

N = 20

DATA = {"x": np.arange(N, dtype=np.float32) * 10}

SPEC = {"columns": {"x": {"dtype": "float32"}}, "X": "x", "storage": {"backend": "in-memory"}}


def load(splits, **options):
    return kd.load_dataset(SPEC | {"splits": splits}, data=DATA, **options)


def as_lists(splits):
    return {name: rows.tolist() for name, rows in splits.items()}
