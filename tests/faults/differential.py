"""Random specs over random data, by every way through the library, against plain numpy. Full size: 100,000 specs.

A case draws columns of any dtype, with 0 to 4 axes, and with odd names, packed bits, other stored names and casts; rows
that share values, with keys or without; roles and splits; a way to open them (as Python values, joined to a thin table,
or featurized); a chain of copies through the backends that write; and views of views. After each step, every way of
reading is compared with numpy.
"""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

import kinoml_data as kd
from kinoml_data import registry
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.backends.joined.backend import Table
from kinoml_data.backends.npz.backend import NpzLazy
from kinoml_data.errors import UnsupportedStoreError
from kinoml_data.layouts import arrow_rows
from kinoml_data.spec.array import DTYPES
from tests.builders import FORMS, same_tensor
from tests.dataset.tensors import assert_form
from tests.faults.report import Report
from tests.keyed import Keyed, without_index

FULL = 100_000
SHOWN = 50  # problems kept per job
NUMBERS = [name for name in DTYPES if name != "str"]
NAMES = ["x", "y", "X0", "0", "1", "-", "_", "a-b", "values", "shape", "crc", "spec", "index", "idx_x", "x" * 60]
TEXTS = ["", "C", "c1ccccc1", "é", "☃" * 9, "\0", "a\nb", "NaN", "1.5", " ", '"', "\U0001f9ea"]
# The backends that write, with the options with which a copy is opened. Those that are not installed are left out.
STORES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("npz-lazy", ".npz", {}, {}),
    ("npz-lazy", ".npz", {"compress": True}, {}),
    ("npz-lazy", ".npz", {}, {"io": "mmap"}),
    ("npz-lazy", ".npz", {}, {"backend": "npz-reopen"}),
    ("npz-lazy", ".npz", {}, {"backend": "in-memory"}),
    ("parquet-awkward", ".parquet", {}, {}),
    ("parquet-awkward", ".parquet", {}, {"memory_budget": 0}),
    ("hdf5", ".h5", {}, {}),
    ("zarr", ".zarr", {}, {}),
    ("lance", ".lance", {}, {}),
]
WEIGHTS = [3, 3, 3, 3, 3, 6, 6, 4, 1, 1]


@dataclass
class Drawn:
    """A column: how it is stored, and what must be delivered.

    Attributes:
        said: what the spec says about it.
        stored: the rows as they are stored.
        rows: the rows as they are delivered.
    """

    said: dict[str, Any]
    stored: list[Any]
    rows: list[Any] = field(default_factory=list)

    @property
    def is_string(self) -> bool:
        return bool(self.said["dtype"] == "str")

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(None if axis == "*" else axis for axis in self.said.get("shape", ()))


class Case:
    """One spec with its data, from a seed."""

    def __init__(self, seed: int, workers: bool = False) -> None:
        self.rng, self.workers = random.Random(seed), workers
        self.bits = np.random.default_rng(seed)
        self.count = self.rng.choice([0, 1, 2, 3, 5, 8, 13])
        names = self.rng.sample(NAMES, self.rng.randint(1, 4))
        self.columns = {name: self._column(number == 0) for number, name in enumerate(names)}
        self._share()
        numeric = [name for name, column in self.columns.items() if not column.is_string]
        X = [name for name in numeric if name == names[0] or self.rng.random() < 0.5]
        rest = [name for name in numeric if name not in X]
        y = [name for name in rest if self.rng.random() < 0.7]
        self.X: Any = X[0] if len(X) == 1 and self.rng.random() < 0.7 else X
        self.y: Any = None if not y else y[0] if len(y) == 1 and self.rng.random() < 0.7 else y
        self.meta = [name for name in names if name not in (*X, *y)]
        self.splits, self.members = self._splits()

    # -- drawing

    def _column(self, numeric: bool) -> Drawn:
        rng = self.rng
        if not numeric and rng.random() < 0.2:
            texts = [rng.choice(TEXTS) for _ in range(self.count)]
            return Drawn({"dtype": "str"}, texts, list(texts))
        axes = [rng.choice([None, None, 0, 1, 2, 3]) for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 4]))]
        if axes and rng.random() < 0.15:
            return self._packed(axes[:-1])
        dtype = rng.choice(NUMBERS)
        requested = rng.choice(NUMBERS) if rng.random() < 0.3 else dtype
        if np.dtype(dtype).kind == "c" and np.dtype(requested).kind != "c":
            requested = dtype
        stored = [self._values(dtype, shape, any_bits=requested == dtype) for shape in self._shapes(axes)]
        said = {"dtype": requested, "shape": ["*" if axis is None else axis for axis in axes]}
        return Drawn(said, stored, [row.astype(requested) for row in stored])

    def _share(self) -> None:
        """Let rows share values, in some columns in the same way."""
        order = [self.rng.randrange(self.count) for _ in range(self.count)]
        for column in self.columns.values():
            if self.rng.random() < 0.4:
                column.stored, column.rows = ([values[i] for i in order] for values in (column.stored, column.rows))

    def _packed(self, axes: list[int | None]) -> Drawn:
        bits, order = self.rng.randint(1, 20), self.rng.choice([True, "big", "little"])
        rows = [self.bits.integers(0, 2, (*shape, bits)).astype(bool) for shape in self._shapes(axes)]
        stored = [np.packbits(row, axis=-1, bitorder="little" if order == "little" else "big") for row in rows]
        dtype = self.rng.choice(["bool", "uint8", "float32", "int64"])
        said = {"dtype": dtype, "shape": ["*" if a is None else a for a in axes] + [bits], "packbits": order}
        return Drawn(said, stored, [row.astype(dtype) for row in rows])

    def _shapes(self, axes: Sequence[int | None]) -> Iterator[tuple[int, ...]]:
        alike = self.rng.random() < 0.2  # ragged, although all rows have one shape
        lengths = [self.rng.randint(0, 4) for _ in axes]
        for _ in range(self.count):
            drawn = lengths if alike else [self.rng.randint(0, 4) for _ in axes]
            yield tuple(length if axis is None else axis for axis, length in zip(axes, drawn, strict=True))

    def _values(self, dtype: str, shape: tuple[int, ...], *, any_bits: bool) -> Any:
        if dtype == "bool" or not any_bits:  # values that every dtype can represent
            return self.bits.integers(0, 2, shape).astype(dtype)
        kind = np.dtype(dtype)
        size = int(np.prod(shape))
        values = np.frombuffer(self.bits.bytes(size * kind.itemsize), kind).reshape(shape).copy()
        if size and self.rng.random() < 0.2:
            flat = values.reshape(-1)
            limits = np.finfo(kind) if kind.kind in "fc" else np.iinfo(kind)
            flat[self.rng.randrange(size)] = self.rng.choice([limits.min, limits.max, 0])
        return values

    def _splits(self) -> tuple[Any, dict[str, list[int]]]:
        count = self.count
        match self.rng.choice(["none", "rows", "range", "ratios"]):
            case "rows":
                order = self.rng.sample(range(count), count)
                cut = self.rng.randint(0, count)
                members = {"train": order[:cut], "test": sorted(order[cut:])}
                return {name: {"rows": rows} for name, rows in members.items()}, members
            case "range":
                cut = self.rng.randint(0, count)
                members = {"a": list(range(cut)), "b": list(range(cut, count))}
                return {"a": {"range": [0, cut]}, "b": {"range": [cut, count]}}, members
            case "ratios":
                return {"ratios": {"train": 0.7, "rest": 0.3}, "seed": self.rng.randrange(9)}, {}
        return {}, {}

    # -- opening

    def spec(self, **storage: Any) -> dict[str, Any]:
        columns = {name: dict(column.said) for name, column in self.columns.items()}
        spec = {"columns": columns, "X": self.X, "meta": self.meta, "splits": self.splits, "storage": storage}
        return spec if self.y is None else {**spec, "y": self.y}

    def opened(self, folder: Path) -> tuple[kd.XyDataset, list[int]]:
        """A dataset over the data, and the number of the drawn row for each of its rows."""
        way = self.rng.choice(["values", "values", "featurized", "joined"])
        rows = list(range(self.count))
        if way == "featurized" and not any(column.said.get("packbits") for column in self.columns.values()):
            return self._featurized(), rows
        if way == "joined" and self.count:
            return self._joined(folder)
        spec, data = self.spec(backend="in-memory"), {}
        for name, column in self.columns.items():
            stored_as = name if self.rng.random() < 0.7 else f"{name}-of"
            if stored_as != name:
                spec["columns"][name]["stored_as"] = stored_as
            data[stored_as] = self._given(column)
        dataset = kd.load_dataset(spec, data=data, backend=self._keyed(InMemory()))
        if self.rng.random() < 0.5:  # the dataset has to own its rows
            for values in data.values():
                _spoil(values)
        return dataset, rows

    def _given(self, column: Drawn) -> Any:
        """The rows of a column as a caller may give them: a list, an array, a tensor or a `Ragged`."""
        rows = [row if isinstance(row, str) else row.copy() for row in column.stored]
        if column.is_string or not rows or self.rng.random() < 0.4:
            return rows
        if None in column.shape or column.said.get("packbits"):
            return rows if column.said.get("packbits") else kd.Ragged.from_rows(rows, rows[0].dtype, rows[0].ndim)
        whole = np.stack(rows)
        return torch.from_numpy(whole) if self.rng.random() < 0.3 else whole

    def _featurized(self) -> kd.XyDataset:
        names = list(self.columns)
        columns = [copy.deepcopy(self.columns[name].rows) for name in names]
        texts = [name for name in names if self.columns[name].is_string]
        computed = [(name, rows) for name, rows in zip(names, columns, strict=True) if name not in texts]

        def featurize(row: Any) -> Any:
            found = tuple(rows[int(row)] for _, rows in computed)
            return found[0] if len(found) == 1 else found

        raw = np.arange(self.count)
        if self.rng.random() < 0.5:  # equal features from equal inputs
            number: dict[bytes, int] = {}
            contents = [pickle.dumps([_plain_row(rows[row]) for _, rows in computed]) for row in raw.tolist()]
            raw = np.array([number.setdefault(content, row) for row, content in enumerate(contents)], np.int64)
        data = {"raw": raw, **{name: self.columns[name].rows for name in texts}}
        storage = {"featurizer": {"inputs": ["raw"]}, "memory_budget": self.rng.choice([0, 1000, 1 << 30])}
        return kd.load_dataset(self.spec(backend="featurize-on-access", **storage), data=data, featurizer=featurize)

    def _joined(self, folder: Path) -> tuple[kd.XyDataset, list[int]]:
        spec = {
            "columns": {name: dict(column.said) for name, column in self.columns.items()},
            "X": list(self.columns),
            "storage": {"backend": "in-memory"},
        }
        strings = [name for name, column in self.columns.items() if column.is_string]
        spec |= {"X": [name for name in self.columns if name not in strings], "meta": [*strings, "id-of"]}
        ids = self.rng.sample(range(1000), self.count)
        texts = self.rng.random() < 0.5
        known = {row: str(id) if texts else id for row, id in enumerate(ids)}
        spec["columns"]["id-of"] = {"dtype": "str" if texts else "int64"}
        data = {name: column.stored for name, column in self.columns.items()} | {"id-of": list(known.values())}
        kd.save_dataset(kd.load_dataset(spec, data=data), folder / "table.npz")
        rows = [self.rng.randrange(self.count) for _ in range(self.count)]
        by_id = self.rng.random() < 0.7
        index = np.array(rows, self.rng.choice(["uint8", "int64", "int16"]))
        thin = {"row-of": [known[row] for row in rows] if by_id else index, "z-of": np.zeros(self.count)}
        in_memory = self.rng.random() < 0.5
        if not in_memory:
            roles = {"X": "z-of", "meta": ["row-of"], "storage": {"backend": "in-memory"}}
            kd.save_dataset(kd.load_dataset(roles, data=thin), folder / "thin.npz")
        source = {"backend": "in-memory"} if in_memory else {"backend": "npz-lazy", "path": str(folder / "thin.npz")}
        names = {name: name for name in self.columns}
        table = Table(source=NpzLazy(path=folder / "table.npz"), columns=names, key="id-of" if by_id else None)
        options = table.model_dump(mode="json", exclude_none=True)
        if not by_id or self.rng.random() < 0.3:
            options["digest"] = table.current_digest()
        tables = {"row-of": options}
        spec = self.spec(backend="joined", source=source, tables=tables)
        dataset = kd.load_dataset(spec, data=thin if in_memory else None)
        _spoil(index)
        self.check(pickle.loads(pickle.dumps(dataset)), rows)
        return dataset, rows

    def reopened(self, dataset: kd.XyDataset) -> kd.XyDataset:
        """The dataset itself, or another one over the same store that has keys for rows that share values."""
        assert dataset._session.backend is not None
        backend = self._keyed(dataset._session.backend)
        return dataset if backend is None else kd.load_dataset(dataset.spec, backend=backend)

    def _keyed(self, source: kd.Backend) -> kd.Backend | None:
        if self.rng.random() < 0.6:
            return None
        return Keyed(source=source, keys=self.rng.choice(["content", "finer"]), dtype="int16")

    # -- comparing

    def check(self, dataset: kd.XyDataset, rows: list[int]) -> None:
        """Compare every way of reading with the drawn rows, whose numbers are `rows`."""
        assert len(dataset) == len(rows)
        for position in self.rng.sample(range(len(rows)), min(2, len(rows))):
            X, y = dataset[position]
            for name, tensor in (*self._named(self.X, X), *self._named(self.y, y)):
                same_tensor(tensor, self.columns[name].rows[rows[position]])
                _spoil(tensor)
        positions = [self.rng.randrange(len(rows)) for _ in range(self.rng.randint(0, 6))] if rows else []
        taken = [rows[position] for position in positions]
        self._check_batch(dataset[positions], taken, dict.fromkeys(self.columns, "list"))
        forms = {name: self._form(name) for name in self.columns if name not in self.meta}
        said = {name: self._said(name, form) for name, form in forms.items()}
        forms = {name: "list" if form == "nested" and "of" in said[name] else form for name, form in forms.items()}
        loader = dataset.as_dataloader(batch_size=4, collate=said, prefetch=self.rng.choice([0, 0, 0, 2]))
        found = list(loader)
        for number, batch in enumerate(found):
            self._check_batch(batch, rows[4 * number : 4 * number + 4], forms)
        assert len(found) == -(-len(rows) // 4)
        if self.rng.random() < 0.2:  # torch's own loader, which collates samples
            start = self.rng.randint(0, len(rows))
            part = self.rng.choice([Subset, lambda d, r: ConcatDataset([d.select(r)])])(
                dataset, range(start, len(rows))
            )
            for number, batch in enumerate(DataLoader(part, batch_size=3)):
                first = start + 3 * number
                self._check_batch(batch, rows[first : first + 3], dict.fromkeys(self.columns, "list"))
        for name, column in self.columns.items():
            whole, expected = dataset.column(name), [column.rows[row] for row in rows]
            if column.is_string:
                assert whole == expected
            elif None in column.shape:
                assert_form(whole, "list", expected, np.dtype(column.said["dtype"]), column.shape)
            else:
                same_tensor(whole, self._stacked(column, expected))

    def _check_batch(self, batch: Any, rows: list[int], forms: dict[str, str]) -> None:
        X, y = without_index(batch)
        for name, found in (*self._named(self.X, X), *self._named(self.y, y)):
            column = self.columns[name]
            expected = [column.rows[row] for row in rows]
            if None in column.shape:
                assert_form(found, forms[name], expected, np.dtype(column.said["dtype"]), column.shape, 1)
            else:
                same_tensor(found, self._stacked(column, expected))
                _spoil(found)

    def _stacked(self, column: Drawn, rows: list[Any]) -> Any:
        dtype, shape = np.dtype(column.said["dtype"]), column.shape
        return np.stack(rows) if rows else np.empty((0, *[axis or 0 for axis in shape]), dtype)

    @staticmethod
    def _named(names: Any, part: Any) -> list[tuple[str, Any]]:
        if names is None:
            assert part is None
            return []
        return [(names, part)] if isinstance(names, str) else [(name, part[name]) for name in names]

    def _form(self, name: str) -> str:
        one = self.columns[name].shape.count(None) == 1
        return self.rng.choice([form for form in FORMS if one or form != "nested"])

    def _said(self, name: str, form: str) -> Any:
        said = {"form": form, "value": 1} if form in ("pad", "pad-mask") else {"form": form}
        unique = self.rng.random() < 0.2
        return {**said, "form": "unique", "of": form} if unique else said

    def check_splits(self, dataset: kd.XyDataset, rows: list[int], members: dict[str, list[int]]) -> None:
        """Compare the splits of a dataset with drawn rows, in their order, and one of them as a view."""
        assert dataset.indices.keys() >= members.keys()
        for name, split in members.items():
            assert [rows[position] for position in dataset.indices[name]] == split, name
        if members:
            name = self.rng.choice(list(members))
            view = dataset.split(name)
            self.check(view, [rows[row] for row in view.rows])
            selected, selected_rows = self.viewed(dataset, rows)
            self.check(selected.split(name), [row for row in selected_rows if row in members[name]])

    def viewed(self, dataset: kd.XyDataset, rows: list[int]) -> tuple[kd.XyDataset, list[int]]:
        """A view of some rows without repetition, so that splits can be copied with it."""
        positions = self.rng.sample(range(len(rows)), self.rng.randint(0, len(rows)))
        return dataset.select(np.array(positions, np.int64)), [rows[position] for position in positions]

    def seeded(self, dataset: kd.XyDataset, rows: list[int]) -> None:
        """The order of a seed, in this process and, for some cases, in workers."""

        def order(**options: Any) -> list[bytes]:
            loader = dataset.as_dataloader(batch_size=3, shuffle=True, seed=4, collate="packed", **options)
            return [pickle.dumps(_plain(batch)) for _ in range(2) for batch in loader]

        expected = order()
        assert order(prefetch=2) == expected
        if self.workers and rows and "lance" not in sys.modules:
            assert order(num_workers=1, multiprocessing_context="fork") == expected


def _spoil(values: Any) -> None:
    """Change every value in place; nothing that is read later may show it."""
    if isinstance(values, kd.Ragged):
        values = values.values
    if isinstance(values, list):
        for row in values:
            _spoil(row)
        values[:] = values[:0]
    elif not isinstance(values, str) and (array := np.asarray(values)).size:
        array.reshape(-1).view(np.uint8)[:] = 1


def _plain_row(row: Any) -> tuple[tuple[int, ...], bytes]:
    return row.shape, row.tobytes()


def _plain(value: Any) -> Any:
    """A batch as bytes, shapes and dtypes."""
    if value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.dtype, tuple(value.shape), value.numpy().tobytes()


def execute(seed: int, folder: Path, *, workers: bool = False) -> None:
    """Run one case.

    Raises:
        AssertionError: something differs.
        Exception: anything that the library should not have raised.
    """
    case = Case(seed, workers)
    arrow_rows.TABLE_BYTES = case.rng.choice([100, 32 << 20])  # several row groups, or one
    dataset, rows = case.opened(folder)
    joined = len(set(rows)) < len(rows) or rows != sorted(rows)
    members = {} if joined else case.members
    case.check(dataset, rows)
    case.check_splits(dataset, rows, members)
    if not case.splits or members:
        case.seeded(dataset, rows)
    installed = registry.list_backends()
    for step in range(case.rng.choice([0, 1, 1, 2, 3])):
        source, source_rows = dataset_before, _ = dataset, rows
        if case.rng.random() < 0.4:
            source, source_rows = case.viewed(dataset, rows)
            case.check(source, source_rows)
        (store,) = case.rng.choices(STORES, WEIGHTS)
        backend, suffix, written, opened = store
        if backend not in installed:
            continue
        path = folder / f"{step}{suffix}"
        try:
            share = [name for name in case.columns if case.rng.random() < 0.3]
            share = share if kd.list_backends()[backend].keeps_keys else []
            kd.convert(source, {"backend": backend, "path": str(path), **written}, share=share)
        except UnsupportedStoreError:  # of a name or a dtype; whatever else is refused is a fault
            assert not path.exists(), backend
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a budget of 0
            dataset, rows = case.reopened(kd.load_dataset(path, **opened)), source_rows
        if source is not dataset_before:  # the splits of a view are in its order
            members = {name: [row for row in rows if row in split] for name, split in members.items()}
        case.check(dataset, rows)
        case.check_splits(dataset, rows, members)
        if case.rng.random() < 0.5:
            duplicate = case.rng.choice([copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                case.check(duplicate(dataset), rows)
    view, view_rows = case.viewed(*case.viewed(dataset, rows))
    case.check(view, view_rows)


def run(cases: int | None = None, seed: int = 0, jobs: int = 2, most: int = SHOWN) -> Report:
    """Execute the cases, divided among processes, each of which ends after `most` problems.

    One case in 500 reads with a worker, too.
    """
    report = Report("differential", seed, FULL if cases is None else cases)
    start, context = time.perf_counter(), multiprocessing.get_context("spawn")  # Lance survives no fork
    results = context.Queue()
    parts = [range(job, report.claimed, jobs) for job in range(jobs)]
    running = [context.Process(target=_job, args=(part, seed, most, results)) for part in parts]
    for process in running:
        process.start()
    for _ in running:
        executed, problems = results.get()
        report.executed += executed
        report.problems += problems
    for process in running:
        process.join()
    report.seconds = time.perf_counter() - start
    return report


def _job(part: range, seed: int, most: int, results: Any) -> None:
    problems: list[str] = []
    executed = 0
    for number in part:
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            try:
                execute(seed << 40 | number, Path(folder), workers=number % 500 == 0)
            except Exception:
                problems.append(f"case {number}: {traceback.format_exc(limit=-4)}")
        executed += 1
        if len(problems) >= most:
            break
    results.put((executed, problems))
