"""A full spec, a small one, and the text of the error that a wrong one is refused with."""

import pytest

from kinoml_data import DatasetSpec
from kinoml_data.errors import SpecError

SUFFIXES = (".yaml", ".json", ".toml")

DTYPE_NAMES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "str"),
]

FULL = {
    "format": 1,
    "name": "egfr",
    "columns": {
        "edge_index": {"dtype": "int64", "shape": [2, "*"], "stored_as": "X0"},
        "atoms": {"dtype": "float32", "shape": ["*", 33], "stored_as": "X1", "cast": "exact"},
        "fp": {"dtype": "bool", "shape": [1024], "packbits": True},
        "pIC50": {"dtype": "float32"},
        "id": {"dtype": "str"},
    },
    "X": ["edge_index", "atoms", "fp"],
    "y": "pIC50",
    "meta": ["id"],
    "storage": {"backend": "npz-lazy", "path": "egfr.npz", "verify": "always"},
    "splits": {
        "train": "idx_train",
        "val": {"range": [0, 5]},
        "test": {"rows": [7, 6]},
        "extra": {"file": "rows.npy"},
    },
    "observation_model": {"name": "pIC50", "substrate_conc": 1e-6},
    "collate": {"edge_index": "list", "atoms": {"form": "pad", "value": 0}},
}

SMALL = {"columns": {"a": {"dtype": "float32"}}, "X": "a", "storage": {"backend": "in-memory"}}


def spec(**changes):
    return DatasetSpec.parse(SMALL | changes)


def refused(mapping):
    with pytest.raises(SpecError) as caught:
        DatasetSpec.parse(mapping)
    text = str(caught.value)
    assert text.isprintable()
    return text
