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
    "rows given to a pickle": (
        "dataset/session.py",
        "is_source = isinstance(self._storage, MemoryStorage) and self._storage.is_source",
        "is_source = self._storage.is_source",
    ),
    # reading
    "a row that is a view of memory": ("layouts/memory_storage.py", "[at, ...].copy()", "[at, ...]"),
    "a ragged row that is a view": ("layouts/memory_storage.py", ".reshape(shape).copy()", ".reshape(shape)"),
    "offsets without the first": (
        "columns.py",
        "np.cumsum(lengths, out=total[1:])",
        "np.cumsum(lengths, out=total[:-1])",
    ),
    "sizes of the first axis": ("columns.py", "reduce(np.multiply, shapes.T)", "shapes.T[0]"),
    "adjacent rows": ("columns.py", "np.count_nonzero(starts[1:] != stops[:-1]) == 0", "starts[-1] >= starts[0]"),
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
        "rows[self._in_split(rows, step)]",
        "self._rows_of_split(step)",
    ),
    "splits of a view": (
        "dataset/dataset.py",
        "np.flatnonzero(self._in_split(self._rows, name))",
        "splits[name][: len(self)]",
    ),
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
    "samples that torch collates": (
        "dataset/collate.py",
        "parts_of[name].append(part if",
        "parts_of[name].insert(0, part if",
    ),
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
        "gathered[name].put(places, column, in_part)",
        "gathered[name].put(places[::-1], column, in_part)",
    ),
    "the first row of a part": (
        "backends/parquet/row_groups.py",
        "in_part = rows[places] - (self._ends[part] - self._counts[part])",
        "in_part = np.maximum(rows[places] - self._ends[part], 0)",
    ),
    "joined rows": (
        "backends/joined/storage.py",
        "theirs = self._rows[join.index].take(rows).astype(np.int64)",
        "theirs = self._rows[join.index].take(rows).astype(np.int64)[::-1]",
    ),
    "a joined row": (
        "backends/joined/storage.py",
        "theirs = int(self._rows[join.index][row])",
        "theirs = row",
    ),
    "the rows of joined ids": (
        "backends/joined/storage.py",
        "rows = list(map(row_of.get, ids))",
        "rows = [min(row_of.get(i, 0) + 1, len(table) - 1) for i in ids]",
    ),
    "features by row": (
        "backends/featurized_storage.py",
        "return [features[each] for each in numbers]",
        "return list(features.values())",
    ),
    "the source's columns beside features": (
        "backends/featurized_storage.py",
        "self._source.read(rows, passed)",
        "self._source.read(np.sort(rows), passed)",
    ),
    # rows that share values
    "rows of distinct keys": ("dataset/binding.py", "self._adapted(rows[first],", "self._adapted(rows[: len(first)],"),
    "the value of each row": (
        "columns.py",
        "return first, number[first_of_row]",
        "return first, np.sort(number[first_of_row])",
    ),
    "rows that are padded once": (
        "dataset/forms.py",
        "column, rows = column.values, column.index  #",
        "column, rows = column.values, np.sort(column.index)  #",
    ),
    "shapes of rows without values": ("columns.py", "several_axes = shapes.shape[1] > 1", "several_axes = False"),
    "splits of a copy": (
        "conversion.py",
        'arrays = {f"idx_{name}": positions for',
        'arrays = {f"idx_{name}": positions[::-1] for',
    ),
    "rows of a copy": (
        "copied_rows.py",
        "return self._dataset.read_stored(positions, self._group.names)",
        "return self._dataset.read_stored(positions[::-1], self._group.names)",
    ),
}

# Faults beyond the random specs, each with the test that finds it.
FOUND_BY_A_TEST = {
    "a shape that conditions change": (
        "contracts/observation_model.py",
        "        if found != shape:\n",
        "        if False:\n",
        "test_observation.py::test_a_condition_that_would_change_the_shape_is_an_error_over_every_broadcast",
    ),
    "the iteration that loses its workers": (
        "loading/workers.py",
        "if self._loader._epochs != self._number:",
        "if False:",
        "loading/test_workers.py::test_a_second_iteration_over_kept_workers_is_an_error_for_the_first",
    ),
    "samples without batches": (
        "dataset/collate.py",
        "if not isinstance(samples, (Batch, list)):",
        "if False:",
        "dataset/test_collate.py",
    ),
    "a quote that stays open": (
        "backends/csv/text.py",
        'if (last[-1].as_py() or "").endswith',
        'if False and (last[-1].as_py() or "").endswith',
        "backends/csv/test_backend.py::test_a_file_that_is_cut_off_is_damaged",
    ),
    "the mode of a private file": (
        "files.py",
        "if overwrite and final.is_file():",
        "if False:",
        "test_conversion.py::test_a_file_that_is_replaced_keeps_its_mode",
    ),
    "the least integer as float16": (
        "columns.py",
        "outside = np.isinf(real) | (real >= 2.0**bits)",
        "outside = real >= 2.0**bits",
        "test_columns.py::test_every_boundary_value_is_cast_as_exact_arithmetic_says",
    ),
    "a seed that workers share with the order": (
        "loading/loader.py",
        'kwargs.get("generator") if seed is None else torch.Generator().manual_seed(seed)\n        kwargs',
        'kwargs.get("generator")\n        kwargs',
        "loading/test_loader.py::test_the_order_after_an_epoch_that_was_not_finished_is_that_of_the_next_epoch",
    ),
    "all rows for every rank": (
        "loading/loader.py",
        "(ranks := _ranks()) > 1",
        "(ranks := _ranks()) < 1",
        "loading/test_loader.py::test_shuffling_without_a_sampler_is_refused_if_several_processes_train",
    ),
    "a spec that is too long to read": (
        "spec/dataset_spec.py",
        "if len(text) > config.MAX_BYTES:",
        "if False:",
        "spec/test_dataset_spec.py::test_to_file_refuses_what_from_file_would_not_read",
    ),
    "a copy that is not compared": (
        "conversion.py",
        "        if differing:\n            raise CorruptStoreError(",
        "        if False:\n            raise CorruptStoreError(",
        "test_conversion.py::test_a_copy_that_differs_from_its_source_replaces_nothing",
    ),
    "a copy that is not bound to its spec": (
        "conversion.py",
        "splits.resolve(spec, Binding(spec, copy), np",
        "splits.resolve(spec, dataset._session.binding, np",
        "test_conversion.py::test_a_copy_that_lacks_a_column_replaces_nothing",
    ),
    "stacked columns that share values in different ways": (
        "dataset/binding.py",
        "next(iter(several.values())) if len(several) == 1",
        "next(iter(several.values())) if several",
        "dataset/test_with_and_without_keys.py",
    ),
    "one index for two columns": (
        "dataset/forms.py",
        "column.values, array), column.index.copy())",
        "column.values, array), column.index)",
        "dataset/test_with_and_without_keys.py",
    ),
    "keys of stored columns": (
        "layouts/flat_arrays.py",
        "self._keys[column].take(rows)",
        "self._keys[column].take(np.sort(rows))",
        "dataset/test_with_and_without_keys.py",
    ),
    "the key of a row in memory": (
        "layouts/memory_storage.py",
        "self._keys[name].item(row) if",
        "self._keys[name].item(0) if",
        "dataset/test_with_and_without_keys.py",
    ),
    "positions in the memory of the caller": (
        "dataset/indexing.py",
        "return index.copy(), False",
        "return index, False",
        "dataset/test_indexing.py::test_positions_do_not_share_memory_with_the_index",
    ),
}


def test_random_specs_are_read_as_numpy_says(scaled):
    differential.run(cases=scaled(1500), seed=1).check()


def test_every_planted_fault_fits_one_place():
    for name, (file, old, *_) in (PLANTED | FOUND_BY_A_TEST).items():
        assert (Path(kinoml_data.__file__).parent / file).read_text("utf-8").count(old) == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, name: str) -> None:
    plant(tmp_path, *PLANTED[name])
    program = (
        "import kinoml_data; from tests.faults import differential\n"
        f"assert kinoml_data.__file__.startswith({str(tmp_path)!r})\n"
        "print(len(differential.run(cases=1500, jobs=1, most=1).problems))"
    )
    found = run(tmp_path, "-c", program)
    # An import or an opening that fails at once is found, too.
    assert found.returncode != 0 or int(found.stdout.split()[-1]) == 1, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND_BY_A_TEST)
def test_a_planted_fault_is_found_by_a_test(tmp_path: Path, name: str) -> None:
    *fault, test = FOUND_BY_A_TEST[name]
    plant(tmp_path, *fault)
    root = Path(kinoml_data.__file__).parents[1]
    shutil.copytree(root / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    found = run(tmp_path, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{test}")
    assert found.returncode == 1 and "1 failed" in found.stdout, found.stdout + found.stderr


def plant(folder: Path, file: str, old: str, new: str) -> None:
    """Copy the library to `folder` and put a fault into the copy."""
    shutil.copytree(
        Path(kinoml_data.__file__).parent, folder / "kinoml_data", ignore=shutil.ignore_patterns("__pycache__")
    )
    source = (folder / "kinoml_data" / file).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} no longer contains, or contains twice: {old}"
    (folder / "kinoml_data" / file).write_text(source.replace(old, new), encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the copy of the library in `folder`."""
    paths = os.pathsep.join([str(folder), str(Path(kinoml_data.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
