"""The examples that the conformance suite stores, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kinoml_data.spec.array import DTYPES, STRING, Array
from kinoml_data.testing.example import Example, Rows, bits, column_of, locked

__all__ = ["EXAMPLES", "NUMERIC", "Example", "bits", "column_of", "labelled", "mixed", "of_dtype", "other", "sharing"]

NUMERIC = tuple(name for name in DTYPES if name != STRING)

Described = dict[str, tuple[Array, Sequence[tuple[int, ...]]]]  # each column with the shapes of its rows


def _example(name: str, columns: Described) -> Example:
    rows = {
        column: [bits(array.dtype, shape, 1000 * number + row) for row, shape in enumerate(shapes)]
        for number, (column, (array, shapes)) in enumerate(columns.items())
    }
    return Example(name, {column: array for column, (array, _) in columns.items()}, rows)


def _fixed() -> Example:
    arrays = {
        "y": Array("float32"),
        "label": Array("int64"),
        "flag": Array("bool"),
        "vector": Array("float64", (3,)),
        "matrix": Array("uint8", (2, 5)),
        "cube": Array("float32", (2, 1, 3)),
        "deep": Array("int16", (2, 1, 2, 2)),
    }
    return _example("fixed", {name: (array, [array.row_shape] * 7) for name, array in arrays.items()})


def _ragged() -> Example:
    lengths = [3, 9, 1, 4, 4, 2, 17]
    columns: Described = {
        "smiles": (Array("uint8", (5, None)), [(5, n) for n in lengths]),
        "edges": (Array("int64", (2, None)), [(2, n) for n in lengths[::-1]]),
        "atoms": (Array("float32", (None, 4)), [(n, 4) for n in lengths]),
        "word": (Array("int32", (None,)), [(n + 1,) for n in lengths]),
        "y": (Array("float32"), [()] * 7),
    }
    return _example("ragged", columns)


def _twice_ragged() -> Example:
    pairs = [(2, 2), (1, 5), (5, 1), (3, 4), (4, 3), (7, 2)]
    columns: Described = {
        "square": (Array("float32", (None, None)), pairs),
        "outer": (Array("float64", (None, 3, None)), [(a, 3, b) for a, b in pairs]),
        "deep": (Array("int32", (None, 2, None, 1)), [(a, 2, b, 1) for a, b in pairs[::-1]]),
        "y": (Array("float32"), [()] * 6),
    }
    return _example("twice-ragged", columns)


def _empty_rows() -> Example:
    columns: Described = {
        "first": (Array("float32", (None, 3)), [(0, 3), (2, 3), (1, 3), (4, 3), (1, 3)]),
        "last": (Array("int64", (2, None)), [(2, 1), (2, 3), (2, 2), (2, 1), (2, 0)]),
        "between": (Array("uint8", (None,)), [(2,), (0,), (0,), (3,), (1,)]),
        "both": (Array("float64", (None, None)), [(0, 2), (3, 0), (2, 2), (0, 0), (1, 4)]),
        "y": (Array("float32"), [()] * 5),
    }
    return _example("empty-rows", columns)


def _only_empty_rows() -> Example:
    columns: Described = {
        "ragged": (Array("float32", (None, 3)), [(0, 3)] * 4),
        "both": (Array("int64", (None, None)), [(0, 2), (3, 0), (0, 0), (0, 5)]),
        "none": (Array("float64", (0,)), [(0,)] * 4),
        "wide": (Array("uint8", (3, 0)), [(3, 0)] * 4),
        "inner": (Array("float32", (2, 0, 4)), [(2, 0, 4)] * 4),
        "y": (Array("float32"), [()] * 4),
    }
    return _example("only-empty-rows", columns)


def _one_row() -> Example:
    atoms, vector, y = Array("float32", (None, 4)), Array("int64", (3,)), Array("float32")
    numeric = _example("one-row", {"atoms": (atoms, [(2, 4)]), "vector": (vector, [(3,)]), "y": (y, [()])})
    return replace(numeric, columns={**numeric.columns, "id": Array(STRING)}, rows={**numeric.rows, "id": ["P00533"]})


def _no_rows() -> Example:
    columns = {
        "atoms": Array("float32", (None, 4)),
        "square": Array("int64", (None, None)),
        "vector": Array("float64", (3,)),
        "matrix": Array("uint8", (2, 0)),
        "y": Array("float32"),
        "id": Array(STRING),
    }
    return Example("no-rows", columns, {name: [] for name in columns})


def _strings() -> Example:
    text = [
        "",
        "CC(=O)Oc1ccccc1C(=O)O",
        "\N{GRINNING FACE}\N{FAMILY}\N{ZERO WIDTH JOINER}",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "cafe\N{COMBINING ACUTE ACCENT}",
        'a,"b"\t\r\nc\\',
        "nul \0 inside, and at the end \0",
        "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}" * 300,
        " nan ",
        "",
    ]
    columns = {"smiles": Array(STRING), "y": Array("float32"), "id": Array(STRING)}
    rows: Rows = {"smiles": text, "y": [bits("float32", (), i) for i in range(len(text))], "id": [""] * len(text)}
    return Example("strings", columns, rows)


def _special_values() -> Example:
    """Values that only an exact copy of the bytes preserves: signed zeros, infinities, NaN payloads, ends of ranges."""
    patterns = {
        "float16": [0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0x7FFF, 0x0001, 0x7BFF],
        "float32": [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 1, 0x7F7FFFFF],
        "float64": [
            *(0, 1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, 0xFFF8 << 48),
            *((0x7FF << 52) + 1, (1 << 63) - 1, 1, (0x7FF << 52) - 1),
        ],
    }
    columns: dict[str, Array] = {}
    rows: dict[str, list[Any]] = {}
    for dtype, integers in patterns.items():
        values = np.array(integers, np.dtype(f"uint{8 * np.dtype(dtype).itemsize}")).view(dtype)
        columns[dtype] = Array(dtype)
        rows[dtype] = [locked(values[i : i + 1].reshape(())) for i in range(len(integers))]
        columns[f"{dtype}-row"] = Array(dtype, (None,))
        rows[f"{dtype}-row"] = [locked(values[: i + 1].copy()) for i in range(len(integers))]
    for dtype in ("int8", "int64", "uint16", "uint64"):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        columns[dtype] = Array(dtype)
        rows[dtype] = [locked(np.array(v, dtype)) for v in (low, high, 0, 1, high - 1, low + 1, high // 2, 5, 6, 7)]
    return Example("special-values", columns, rows)


def _many_rows(count: int = 5000) -> Example:
    columns = {"word": Array("int32", (None,)), "y": Array("float64")}
    lengths = np.random.Generator(np.random.PCG64(5)).integers(0, 6, count).tolist()
    flat = bits("int32", (sum(lengths),), 6)
    ends = np.cumsum(lengths).tolist()
    words = [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    scalars = [np.asarray(value) for value in bits("float64", (count,), 7)]
    return Example("many-rows", columns, {"word": words, "y": scalars})


def _splits() -> Example:
    splits = {"train": [4, 0, 6], "val": [], "test": [1, 5]}
    arrays = {f"idx_{name}": locked(np.array(rows, np.int64)) for name, rows in splits.items()}
    others = {"weights": bits("float32", (3, 2), 8), "order": bits("int64", (4,), 9)}
    return replace(_ragged(), name="splits", arrays={**arrays, **others})


def _names() -> Example:
    """Column names that a layout may use for its own arrays."""
    names = ("0", "1", "X", "X0", "X_s0_", "X_s1_a0", "idx_train", "values", "shapes", "index", "spec", "-", "_", "Y")
    kinds = (Array("int64"), [()] * 3), (Array("float32", (None,)), [(2,), (1,), (3,)])
    example = _example("names", {name: kinds[i % 2] for i, name in enumerate(names)})
    return replace(example, arrays={"idx_train": locked(np.array([2, 0], np.int64))})


def sharing() -> Example:
    """Rows that share values: all of them, most, or none, with values that occur first in a later batch."""
    order = [0, 0, 1, 1, 0, 0, 2, 0, 3, 3, 1, 2]
    columns: Described = {
        "fixed": (Array("float64", (3,)), [(3,)] * 4),
        "ragged": (Array("float32", (None, 4)), [(2, 4), (0, 4), (5, 4), (2, 4)]),
        "square": (Array("int16", (None, None)), [(2, 3), (3, 2), (0, 0), (1, 6)]),
        "flags": (Array("bool", (9,)), [(9,)] * 4),
        "one": (Array("uint8", (2, 2)), [(2, 2)]),
        "own": (Array("int32", (None,)), [(n % 4,) for n in range(12)]),
        "y": (Array("float32"), [()] * 12),
    }
    base = _example("sharing", columns)
    text = ["kinase \N{GREEK SMALL LETTER ALPHA}", "", "kinase", "kinase \0"]
    zeros = [locked(np.array(value)) for value in (0.0, -0.0, np.nan, -np.nan)]  # they differ in their bits
    distinct = {**base.rows, "text": text, "zeros": zeros}
    taken = {"one": [0] * 12, "own": range(12), "y": range(12)}
    rows = {name: [values[i] for i in taken.get(name, order)] for name, values in distinct.items()}
    arrays = {**base.columns, "text": Array(STRING), "zeros": Array("float64")}
    return replace(base, columns=arrays, rows=rows, shared=tuple(name for name in arrays if name != "y"))


def mixed() -> Example:
    """Fixed, ragged and string columns with splits, for tests that are not about the kinds of columns."""
    base = _splits()
    names = [f"kinase {i} \N{GREEK SMALL LETTER ALPHA}" * (i % 3) for i in range(len(base))]
    columns = {**base.columns, "flag": Array("bool", (3,)), "id": Array(STRING)}
    rows = {**base.rows, "flag": [bits("bool", (3,), 50 + i) for i in range(len(base))], "id": names}
    return replace(base, name="mixed", columns=columns, rows=rows, shared=("edges", "flag", "id"))


def labelled(count: int = 48) -> Example:
    """Columns to make splits from: ligands and kinases that rows share, a year, an id, and a label of some rows."""
    rng = np.random.Generator(np.random.PCG64(11))
    ligands = [f"ligand {number} \N{GREEK SMALL LETTER ALPHA}" for number in rng.integers(0, 16, count)]
    lengths = [len(ligand) + int(ligand.split()[1]) for ligand in ligands]
    rows: Rows = {
        "kinase": [locked(np.array(number, np.int64)) for number in rng.integers(-3, 5, count)],
        "year": [locked(np.array(number, np.float32)) for number in rng.integers(1990, 2000, count)],
        "atoms": [bits("uint8", (length, 2), length) for length in lengths],  # equal ligands have equal atoms
        "ligand": ligands,
        "id": [f"{row:02}" for row in rng.permutation(count)],
        "subset": [("test", "train", "", "train")[row % 4] for row in range(count)],
    }
    columns = {"kinase": Array("int64"), "year": Array("float32"), "atoms": Array("uint8", (None, 2))}
    columns |= dict.fromkeys(("ligand", "id", "subset"), Array(STRING))
    return Example("labelled", columns, rows, shared=("atoms", "kinase", "ligand"))


def other() -> Example:
    """The columns of `mixed` with more rows and other values, to overwrite a store with."""
    base = mixed()
    order = [1, 6, 2, 3, 1, 4, 2, 0, 5, 3, 3]
    rows = {name: base.taken(order, name) for name in base.rows}
    rows["y"] = [bits("float32", (), 70 + i) for i in range(len(order))]
    return replace(base, name="other", rows=rows, arrays={"idx_train": locked(np.array([9, 10], np.int64))})


def of_dtype(dtype: str) -> Example:
    """Columns of one dtype with every rank from 0 to 4: of fixed shape, and ragged in one or two axes."""
    if dtype == STRING:
        return replace(_strings(), name=dtype)
    lengths = [(2, 3), (1, 1), (4, 2)]
    columns: Described = {}
    for rank in range(5):
        fixed = (2, 3, 1, 2)[:rank]
        columns[f"fixed{rank}"] = Array(dtype, fixed), [fixed] * 3
        for axis in range(rank):
            before, after = fixed[:axis], fixed[axis + 1 :]
            shapes = [(*before, n, *after) for n, _ in lengths]
            columns[f"ragged{rank}-{axis}"] = Array(dtype, (*before, None, *after)), shapes
        if rank >= 2:
            shapes = [(n, *fixed[1:-1], m) for n, m in lengths]
            columns[f"twice{rank}"] = Array(dtype, (None, *fixed[1:-1], None)), shapes
    return _example(dtype, columns)


EXAMPLES: tuple[Example, ...] = (
    *(_fixed(), _ragged(), _twice_ragged(), _empty_rows(), _only_empty_rows(), _one_row(), _no_rows()),
    *(_strings(), _special_values(), _many_rows(), _splits(), _names(), sharing(), mixed()),
)
