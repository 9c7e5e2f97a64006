"""Measurements that share ligands and kinases: what is gained if each of them is read, and encoded, once per batch.

`python -m benchmarks.panel` makes 200,000 measurements of 600 ligands and 400 kinases with a seeded generator, and
writes one JSON file. `--before CHECKOUT` also measures an earlier version of this library, from its checkout. Each
version has a process of its own, and they read in turn, so that both meet the same machine. It takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import kinoml_data as kd
from kinoml_data import registry

ROWS, LIGANDS, KINASES, BITS, LETTERS = 200_000, 600, 400, 1024, 20
BATCHES = (256, 1024, 4096)
LEAST = {"loader": 8192, "training": 1024}  # rows in a measurement, which is the begin of an epoch
COLLATE: dict[str, Any] = {
    "pad": "pad",
    "unique": {"ligand": "unique", "kinase": {"form": "unique", "of": "pad"}},
}


def write(folder: Path) -> int:
    """Write the tables, and one file with keys.

    Returns:
        The number of bytes that all rows take in KinoML's layout, a dense float64 array for each row.
    """
    from kinoml_data.plugin import Array, Indexed  # an earlier version has no `Indexed`

    rng = np.random.default_rng(0)
    lengths = rng.integers(250, 1601, KINASES)
    letters = [rng.integers(0, LETTERS, length) for length in lengths]
    rows = {"ligand": rng.integers(0, LIGANDS, ROWS), "kinase": rng.integers(0, KINASES, ROWS)}
    ids = {"ligand": [f"CHEMBL{row}" for row in range(LIGANDS)], "kinase": [f"P{row:05}" for row in range(KINASES)]}
    tables: dict[str, Any] = {
        "ligand": np.packbits(rng.integers(0, 2, (LIGANDS, BITS), np.uint8), axis=1),
        "kinase": [np.equal.outer(np.arange(LETTERS), row).astype(np.uint8) for row in letters],
    }
    for name, X in tables.items():
        save(folder / f"{name}s.npz", {"id": ids[name], "X": X}, X="X", meta=["id"])
    y = rng.normal(7, 1, ROWS).astype(np.float32)
    texts = {f"{name}_id": [ids[name][row] for row in rows[name]] for name in rows}
    save(folder / "by_key.npz", {**texts, "y": y}, X="y", meta=list(texts))
    numbers = {f"{name}_row": rows[name].astype(np.int32) for name in rows}
    save(folder / "by_number.npz", {**numbers, "y": y}, X="y", meta=list(numbers))
    tables["kinase"] = kd.Ragged.from_rows(tables["kinase"], np.uint8, 2)
    columns = {"ligand": Array("uint8", (BITS // 8,)), "kinase": Array("uint8", (LETTERS, None)), "y": Array("float32")}
    batch = {name: Indexed(tables[name], rows[name]) for name in rows} | {"y": y}
    registry.backend("npz-lazy")(path=folder / "one_file.npz").write(columns, [batch])
    return 8 * int((BITS + LETTERS * lengths[rows["kinase"]]).sum())


def save(path: Path, data: dict[str, Any], **roles: Any) -> None:
    kd.save_dataset(kd.load_dataset({"storage": {"backend": "in-memory"}, **roles}, data=data), path)


def spec(kind: str) -> dict[str, Any]:
    """The dataset: joined "by_key" or, as before there were ids, "by_number", or in "one_file" with keys."""
    in_memory = {
        name: {"backend": "in-memory", "source": {"backend": "npz-lazy", "path": f"{name}.npz"}}
        for name in ("ligands", "kinases", "one_file")
    }
    storage: dict[str, Any] = in_memory["one_file"]
    if kind != "one_file":
        way = ("id", {"key": "id"}) if kind == "by_key" else ("row", {})
        tables = {
            f"{name}_{way[0]}": {**way[1], "source": in_memory[f"{name}s"], "columns": {name: "X"}}
            for name in ("ligand", "kinase")
        }
        thin = {"backend": "npz-lazy", "path": f"{kind}.npz"}
        storage = {"backend": "joined", "source": thin, "tables": tables}
    ligand = {"dtype": "float32", "shape": [BITS], "packbits": True}
    columns = {"ligand": ligand, "kinase": {"dtype": "float32", "shape": [LETTERS, "*"]}, "y": {"dtype": "float32"}}
    return {"columns": columns, "X": ["ligand", "kinase"], "y": "y", "storage": storage}


class Model(torch.nn.Module):
    """A small convolutional encoder for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.ligand = torch.nn.Conv1d(1, 8, 16, stride=8)
        self.kinase = torch.nn.Conv1d(LETTERS, 8, 9, stride=3)
        self.head = torch.nn.Linear(16, 1)

    def forward(self, X: dict[str, Any]) -> Any:
        ligand = encoded(X["ligand"], lambda values: self.ligand(values[:, None]))
        kinase = encoded(X["kinase"], self.kinase)
        return self.head(torch.cat([ligand, kinase], dim=1))[:, 0]


def encoded(column: Any, encoder: Callable[[Any], Any]) -> Any:
    """One vector per row; with the form `unique` the encoder is called with the distinct rows."""
    values = encoder(getattr(column, "values", column) if isinstance(column, tuple) else column).relu().mean(dim=-1)
    return values[column.index] if isinstance(column, tuple) else values


class Reader:
    """What one version of the library does. Its process answers requests, each the name of a method and arguments."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.spec = folder, spec(kind)
        self.dataset = self.open()

    def open(self) -> kd.XyDataset:
        return kd.load_dataset(self.spec, base=self.folder)

    def opening_s(self) -> float:
        start = perf_counter()
        self.open().close()
        return perf_counter() - start

    def memory_bytes(self) -> int:
        """What an open dataset takes after a batch."""
        tracemalloc.start()
        dataset = self.open()
        dataset[[0]]
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        dataset.close()
        return held

    def digest(self, form: str) -> str:
        """The digest of a batch in which the distinct rows, if there are any, are copied to the rows of the batch."""
        digest = hashlib.blake2b()
        for X, y in islice(self.dataset.as_dataloader(batch_size=2048, collate=COLLATE[form]), 2):
            for column in (*X.values(), y):
                rows = column.values[column.index] if isinstance(column, tuple) else column
                digest.update(rows.numpy().tobytes())
        return digest.hexdigest()

    def loader(self, form: str, batch_size: int) -> float:
        """Rows per second of the begin of a shuffled epoch."""
        return self._rate(form, batch_size, "loader", lambda X, y: None)

    def training(self, form: str, batch_size: int) -> float:
        """The same, with a step of training for each batch."""
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)

        def step(X: dict[str, Any], y: Any) -> None:
            optimizer.zero_grad()
            (model(X) - y).square().mean().backward()
            optimizer.step()

        return self._rate(form, batch_size, "training", step)

    def _rate(self, form: str, batch_size: int, what: str, use: Callable[[dict[str, Any], Any], None]) -> float:
        loader = self.dataset.as_dataloader(batch_size=batch_size, shuffle=True, collate=COLLATE[form])
        rows, start = 0, perf_counter()
        for X, y in islice(loader, max(1, LEAST[what] // batch_size)):
            use(X, y)
            rows += len(y)
        return rows / (perf_counter() - start)


class Process:
    """A `Reader` in a process of its own.

    Args:
        folder: with the tables.
        kind: see `spec`.
        checkout: the version of the library; None for this one.
    """

    def __init__(self, folder: Path, kind: str, checkout: Path | None = None) -> None:
        path = [str(checkout)] if checkout else []
        path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve", str(folder), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the method of the reader returns."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(folder: Path, kind: str) -> None:
    """Answer requests until there are no more."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    reader = Reader(folder, kind)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(json.dumps(getattr(reader, method)(*arguments)), flush=True)


def measure(folder: Path, before: Path | None, rounds: int) -> dict[str, Any]:
    """Samples by competitor and measure."""
    results: dict[str, Any] = {"dense-float64": {"bytes": [write(folder)]}}
    joined, one_file = Process(folder, "by_key"), Process(folder, "one_file")
    competitors = {"pad": (joined, "pad"), "unique": (joined, "unique"), "one-file": (one_file, "unique")}
    if before is not None:
        competitors["before"] = Process(folder, "by_number", before), "pad"
    digests = {name: process.ask("digest", form) for name, (process, form) in competitors.items()}
    if len(set(digests.values())) > 1:
        raise ValueError(f"the values differ: {digests}")
    results |= {name: {} for name in competitors}
    files = {"pad": ("ligands", "kinases", "by_key"), "one-file": ("one_file",)}
    for name, stems in files.items():
        results[name]["bytes"] = [sum((folder / f"{stem}.npz").stat().st_size for stem in stems)]
        results[name]["memory_bytes"] = [competitors[name][0].ask("memory_bytes")]
    for number in range(rounds + 1):  # the first only warms up
        for name in files:
            opening = competitors[name][0].ask("opening_s")
            results[name].setdefault("opening_s", []).extend([opening] if number else [])
        for what, batch_size in product(LEAST if number else ("loader",), BATCHES):
            for name, (process, form) in competitors.items():
                if what == "training" and name in ("before", "one-file"):  # the model has the same work to do
                    continue
                rate = process.ask(what, form, batch_size)
                results[name].setdefault(f"{what}_{batch_size}", []).extend([rate] if number else [])
    for process in {process for process, _ in competitors.values()}:
        process.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="the checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(Path(options.serve[0]), options.serve[1])
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        found = {"results": measure(Path(folder), options.before, options.rounds)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "panel.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
