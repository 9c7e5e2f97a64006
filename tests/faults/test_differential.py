"""The differential proof, reduced, and that it finds faults that are put into a copy of the library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kinoml_data
from tests.faults import differential

# Each fault: the file, what is taken out, and what takes its place.
PLANTED = {
    # mends of faults that hostile use found
    "rows of the caller": (
        "backends/in_memory.py",
        "np.array(values, dtype=values.dtype",
        "np.asarray(values, dtype=values.dtype",
    ),
    "a Ragged of the caller": (
        "backends/in_memory.py",
        "to_native_order(values.values.copy())",
        "to_native_order(values.values)",
    ),
    "a Ragged of one shape": ("backends/in_memory.py", "        if array.ragged:\n", "        if True:\n"),
    "packed bits without rows in memory": (
        "backends/in_memory.py",
        "return requested.as_stored, requested.as_stored.empty()",
        "return requested, requested.empty()",
    ),
    "an empty view of packed bits": ("dataset/binding.py", "== (None,) and len(storage):", "== (None,):"),
    "rows given to a pickle": ("dataset/session.py", "if isinstance(self._storage, MemoryStorage) and", "if"),
    # reading
    "a row that is a view of memory": ("layouts/memory_storage.py", "[row, ...].copy()", "[row, ...]"),
    "a ragged row that is a view": ("layouts/memory_storage.py", ".reshape(shape).copy()", ".reshape(shape)"),
    "offsets without the first": (
        "columns.py",
        "np.cumsum(lengths, out=total[1:])",
        "np.cumsum(lengths, out=total[:-1])",
    ),
    "sizes of the first axis": ("columns.py", "reduce(np.multiply, shapes.T)", "shapes.T[0]"),
    "adjacent rows": ("columns.py", "np.array_equal(starts[1:], stops[:-1])", "starts[-1] >= starts[0]"),
    "the order of bits": ("dataset/binding.py", '"little" if requested.packbits == "little" else "big"', '"big"'),
    "the number of bits": (
        "dataset/binding.py",
        "np.unpackbits(flat, axis=1, count=bits,",
        "np.unpackbits(flat, axis=1, count=max(1, bits - 1),",
    ),
    "a cast that is left out": (
        "dataset/binding.py",
        "    if plan.cast and not plan.several:",
        "    if plan.cast and plan.several:",
    ),
    "a view of a view": ("dataset/dataset.py", "rows = step if rows is None else rows[step]", "rows = step"),
    "a split of a view": (
        "dataset/dataset.py",
        "rows[np.isin(rows, self._rows_of_split(step))]",
        "self._rows_of_split(step)",
    ),
    "splits of a view": ("dataset/dataset.py", "np.flatnonzero(np.isin(self._rows, rows))", "rows[: len(self)]"),
    "the last row of a range": (
        "dataset/splits.py",
        "np.arange(start, stop, dtype=np.int64)",
        "np.arange(start, max(start, stop - 1), dtype=np.int64)",
    ),
    # batches
    "padding": ("dataset/forms.py", "0 if form.value is None else form.value", "0"),
    "a mask": ("dataset/forms.py", "torch.ones_like(values, dtype=torch.bool)", "values.bool()"),
    "nested rows": (
        "dataset/forms.py",
        "torch.cat(_rows(column), dim=axis)",
        "torch.cat(_rows(column), dim=axis).roll(1, axis)",
    ),
    "shapes of packed rows": (
        "dataset/forms.py",
        "column.values, column.offsets, column.shapes",
        "column.values, column.offsets, column.shapes[::-1].copy()",
    ),
    "samples that torch collates": ("dataset/collate.py", "rows[name].append(part if", "rows[name].insert(0, part if"),
    "a batch that is lost": (
        "loading/prefetch.py",
        "        for batch in batches:\n",
        "        next(batches, None)\n        for batch in batches:\n",
    ),
    # backends
    "rows of an NPZ member": (
        "backends/npz/columns.py",
        "            return self._table[rows]",
        "            return self._table[np.sort(rows)]",
    ),
    "ragged rows of an NPZ member": (
        "backends/npz/columns.py",
        "np.diff(layout.offsets) * size)",
        "np.diff(layout.offsets) // 2 * size)",
    ),
    "row groups in order": (
        "backends/parquet/row_groups.py",
        "_take(concatenate(pieces), inverse)",
        "concatenate(pieces)",
    ),
    "the first row of a part": (
        "backends/parquet/row_groups.py",
        "first = int(self._ends[part]) - self._table.parts[part]",
        "first = 0",
    ),
    "joined rows": ("backends/joined.py", "return pointers.astype(np.int64)", "return pointers.astype(np.int64)[::-1]"),
    "a joined row": (
        "backends/joined.py",
        "theirs = int(self._inside(join, np.array([row]), pointer.reshape(1))[0])",
        "theirs = row",
    ),
    "features by row": (
        "backends/featurize_on_access.py",
        "return [features[row] for row in numbers]",
        "return list(features.values())",
    ),
    "the source's columns beside features": (
        "backends/featurize_on_access.py",
        "self._source.read(rows, passed)",
        "self._source.read(np.sort(rows), passed)",
    ),
    "splits of a copy": (
        "conversion.py",
        'arrays = {f"idx_{name}": positions for',
        'arrays = {f"idx_{name}": positions[::-1] for',
    ),
    "rows of a copy": (
        "conversion.py",
        "dataset.read_stored(np.arange(start, stop), list(columns))",
        "dataset.read_stored(np.arange(start, stop)[::-1], list(columns))",
    ),
}


def test_random_specs_are_read_as_numpy_says(scaled):
    differential.run(cases=scaled(1500), seed=1).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, name: str) -> None:
    file, old, new = PLANTED[name]
    library = Path(kinoml_data.__file__).parent
    shutil.copytree(library, tmp_path / "kinoml_data", ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / "kinoml_data" / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} no longer contains, or contains twice: {old}"
    (tmp_path / "kinoml_data" / file).write_text(source.replace(old, new), encoding="utf-8")
    program = (
        "import kinoml_data; from tests.faults import differential\n"
        f"assert kinoml_data.__file__.startswith({str(tmp_path)!r})\n"
        "print(len(differential.run(cases=1500, jobs=1, most=1).problems))"
    )
    paths = os.pathsep.join([str(tmp_path), str(library.parent)])
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
    )
    # An import or an opening that fails at once is found, too.
    assert run.returncode != 0 or int(run.stdout.split()[-1]) == 1, run.stdout + run.stderr
