"""The data of the benchmarks: three workloads of seeded rows, of real molecules where RDKit is installed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

SYMBOLS = 53  # of a one-hot SMILES
ATOM_FEATURES = 32
FIXED_WIDTH = 1024
MOLECULES = 1000  # of the made-up kind
ROWS = {"ragged": 20_000, "graph": 20_000, "fixed": 100_000}


@dataclass(frozen=True)
class Column:
    """One column, its rows end to end.

    Attributes:
        values: 1-D.
        shapes: int64 `(rows, ndim)`.
        fixed: True if all rows have one shape.
    """

    values: NDArray[Any]
    shapes: NDArray[np.int64]
    fixed: bool = False

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1))])

    @property
    def array(self) -> NDArray[Any]:
        """All rows of a fixed column, `(rows, *shape)`."""
        return self.values.reshape(len(self.shapes), *self.shapes[0].tolist())

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]].reshape(self.shapes[row])

    @classmethod
    def of(cls, rows: list[NDArray[Any]]) -> Column:
        shapes = np.array([row.shape for row in rows], np.int64)
        return cls(np.concatenate([row.reshape(-1) for row in rows]), shapes)


@dataclass(frozen=True)
class Workload:
    """Rows to store: the columns of X by name, and y, float32 `(rows,)`.

    Attributes:
        source: where they come from, in words.
    """

    name: str
    columns: dict[str, Column]
    y: NDArray[np.float32]
    source: str

    def __len__(self) -> int:
        return len(self.y)

    @property
    def fixed(self) -> bool:
        return all(column.fixed for column in self.columns.values())

    @property
    def nbytes(self) -> int:
        return sum(column.values.nbytes for column in self.columns.values()) + self.y.nbytes

    def row(self, row: int) -> list[NDArray[Any]]:
        """One row of every column of X."""
        return [column[row] for column in self.columns.values()]


def make(name: str, rows: int | None = None) -> Workload:
    """A workload by its name: "ragged", "graph" or "fixed"."""
    return {"ragged": ragged, "graph": graph, "fixed": fixed}[name](rows or ROWS[name])


def ragged(rows: int = ROWS["ragged"]) -> Workload:
    """One float32 `(53, L)` one-hot SMILES a row, L from 20 to 100, about 11 KB."""
    rng = np.random.default_rng(1)
    codes, source = _smiles()
    # A row is a molecule cut short, or followed by more of the set, so that lengths are as wanted.
    starts = np.cumsum([0, *map(len, codes[:-1])])
    stream = np.concatenate([*codes, *codes[:20]])
    lengths = rng.triangular(20, 36, 101, rows).astype(np.int64)
    values = np.zeros(int(lengths.sum()) * SYMBOLS, np.float32)
    at = 0
    for start, length in zip(rng.choice(starts, rows).tolist(), lengths.tolist(), strict=True):
        one_hot = values[at : at + SYMBOLS * length].reshape(SYMBOLS, length)
        one_hot[stream[start : start + length], np.arange(length)] = 1
        at += SYMBOLS * length
    shapes = np.stack([np.full(rows, SYMBOLS), lengths], axis=1)
    return Workload("ragged", {"X": Column(values, shapes)}, _y(rng, rows), source)


def graph(rows: int = ROWS["graph"]) -> Workload:
    """An int64 `edge_index (2, E)` and float32 `atoms (N, 32)` a row, about 5 KB."""
    rng = np.random.default_rng(2)
    graphs, source = _graphs()
    chosen = rng.integers(0, len(graphs), rows).tolist()
    edges = [graphs[i][0] for i in chosen]
    counts = np.array([graphs[i][1] for i in chosen], np.int64)
    atoms = rng.random(int(counts.sum()) * ATOM_FEATURES, np.float32)
    shapes = np.stack([counts, np.full(rows, ATOM_FEATURES)], axis=1)
    return Workload("graph", {"edge_index": Column.of(edges), "atoms": Column(atoms, shapes)}, _y(rng, rows), source)


def fixed(rows: int = ROWS["fixed"]) -> Workload:
    """1,024 float32 a row."""
    rng = np.random.default_rng(3)
    values = rng.random(rows * FIXED_WIDTH, np.float32)
    shapes = np.full((rows, 1), FIXED_WIDTH)
    return Workload("fixed", {"X": Column(values, shapes, fixed=True)}, _y(rng, rows), "random numbers")


def small(rows: int, high: int = 101) -> Workload:
    """One float32 `(3, L)` a row, L from 20 to `high`: many rows in little space."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(20, high, rows)
    values = rng.random(int(lengths.sum()) * 3, np.float32)
    shapes = np.stack([np.full(rows, 3), lengths], axis=1)
    return Workload("small", {"X": Column(values, shapes)}, _y(rng, rows), "random numbers")


def _y(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    return rng.normal(6.5, 1, rows).astype(np.float32)


def _smiles() -> tuple[list[NDArray[np.int64]], str]:
    """The symbols of each molecule's SMILES, by number, each ended by a dot."""
    try:
        from kinoml_data_rdkit import SMILES_ALPHABET, OneHotSmiles, chembl_demo

        featurizer, dot = OneHotSmiles(), SMILES_ALPHABET.index(".")
        one_hots = [featurizer.featurize(smiles)[0] for smiles in chembl_demo()["smiles"]]
        return [np.append(one_hot.argmax(axis=0), dot) for one_hot in one_hots], "SMILES of RDKit's ChEMBL example"
    except (ImportError, FileNotFoundError):
        rng = np.random.default_rng(0)
        lengths = rng.integers(20, 70, MOLECULES).tolist()
        return [rng.integers(0, SYMBOLS, length) for length in lengths], "random symbols"


def _graphs() -> tuple[list[tuple[NDArray[np.int64], int]], str]:
    """`edge_index` and the number of atoms of each molecule."""
    try:
        from kinoml_data_rdkit import MolecularGraph, chembl_demo

        featurizer = MolecularGraph()
        found = [featurizer.featurize(smiles) for smiles in chembl_demo()["smiles"]]
        return [(edges, len(atoms)) for edges, atoms in found], "bonds of RDKit's ChEMBL example, random features"
    except (ImportError, FileNotFoundError):
        rng = np.random.default_rng(0)
        counts = rng.integers(15, 40, MOLECULES).tolist()
        return [(rng.integers(0, n, (2, 2 * n + 4)), n) for n in counts], "random graphs"
