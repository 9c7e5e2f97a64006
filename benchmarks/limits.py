"""Single facts: opening, memory, descriptors, growth.

`python -m benchmarks.limits` measures all of them, each in a process of its own, and writes one JSON file;
`python -m benchmarks.limits NAME` measures one and prints it. It takes about four minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import awkward as ak
import numpy as np
import torch
from numpy.typing import NDArray

import kinoml_data as kd
from benchmarks import workloads
from benchmarks.large_files import many_members, save
from benchmarks.peers.numpy_files import Awkward, write_members
from benchmarks.results import FOLDER

MANY, FEWER = 1_000_000, 10_000
ROUNDS = 7
Facts = dict[str, list[float]]
KINDS: dict[str, dict[str, Any]] = {
    "npz-lazy": {},
    "npz-lazy-mmap": {"io": "mmap"},
    "in-memory": {"backend": "in-memory"},
}


def opening_members(folder: Path) -> Facts:
    """Opening KinoML's NPZ with 20,001 members, and `np.load` with its list of keys."""
    write_members(workloads.ragged(), folder / "data.npz")
    found: Facts = {"ours_ms": [], "numpy_ms": []}
    for _ in range(2 * ROUNDS):
        found["numpy_ms"].append(1e3 * seconds(lambda: keys(folder / "data.npz")))
        found["ours_ms"].append(1e3 * seconds(lambda: kd.load_dataset(folder / "data.npz").close()))
    return found


def keys(path: Path) -> list[str]:
    with np.load(path) as file:
        return list(file.keys())


def opening_many_members(folder: Path) -> Facts:
    """The same with 1,000,001 members, and what the index of an open dataset takes."""
    path = folder / "data.npz"
    many_members(path, MANY)
    kd.from_arrays(np.zeros((4, 2)), np.zeros(4))  # so that imports and caches are there
    gc.collect()
    before = private_bytes(os.getpid())
    dataset = kd.load_dataset(path)
    gc.collect()
    # Besides the index that is what the allocator keeps of what opening took for a moment.
    found: Facts = {"ours_s": [], "numpy_s": []}
    found["private_bytes_per_member"] = [(private_bytes(os.getpid()) - before) / MANY]
    dataset.close()
    del dataset
    for _ in range(2):
        found["ours_s"].append(seconds(lambda: kd.load_dataset(path).close()))
        found["numpy_s"].append(seconds(lambda: keys(path)))
    gc.collect()
    tracemalloc.start()
    dataset = kd.load_dataset(path)
    gc.collect()
    held, peak = tracemalloc.get_traced_memory()
    found["held_bytes_per_member"], found["peak_bytes_per_member"] = [held / MANY], [peak / MANY]
    require(len(dataset) == MANY, "rows")
    return found


def opening_flat(folder: Path) -> Facts:
    """Opening a flat NPZ of 1,000,000 rows."""
    save(workloads.small(MANY), folder / "data.npz")
    return {"ours_ms": [1e3 * seconds(lambda: kd.load_dataset(folder / "data.npz").close()) for _ in range(ROUNDS)]}


def worker_memory(folder: Path) -> Facts:
    """The private memory of two workers, before and after three epochs over 1,000,000 rows."""
    save(workloads.small(MANY), folder / "data.npz")
    dataset = kd.load_dataset(folder / "data.npz")
    loader = dataset.as_dataloader(batch_size=1024, shuffle=True, num_workers=2, collate="packed")
    batches = iter(loader)
    for _ in range(20):
        next(batches)
    workers = [worker.pid for worker in loader._iterator._workers]
    memory = [[private_bytes(pid) for pid in workers]]
    for _ in batches:
        pass
    for _ in range(2):
        memory.append([private_bytes(pid) for pid in workers])
        require(sum(len(y) for _, y in loader) == MANY, "rows")
    memory.append([private_bytes(pid) for pid in workers])
    growth = np.array(memory) / 2**20
    return {
        "growth_mib": (growth[-1] - growth[0]).tolist(),
        "after_first_epoch_mib": (growth[-1] - growth[1]).tolist(),
        "private_mib": growth[-1].tolist(),
    }


def descriptors(folder: Path) -> Facts:
    """Batches of 1,024 ragged rows through four workers with 256 descriptors; the rows that arrived."""
    save(workloads.ragged(), folder / "data.npz")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    dataset = kd.load_dataset(folder / "data.npz")
    found: Facts = {}
    for form in ("list", "packed", "pad"):
        loader = dataset.as_dataloader(batch_size=1024, shuffle=True, num_workers=4, collate=form, timeout=60)
        kept = list(loader)  # all of them held at once, as a user may
        found[f"rows_{form}"] = [float(sum(len(y) for _, y in kept))]
        found[f"open_{form}"] = [float(len(list(Path("/proc/self/fd").iterdir())))]
        del kept, loader
    return found


def growth(folder: Path) -> Facts:
    """Rows per second of random batches of 128, from 10,000 and from 1,000,000 rows; and of slices put together."""
    names = {"many": MANY, "fewer": FEWER}
    readers: dict[str, dict[str, Any]] = {"slices": {}}
    for name, rows in names.items():
        data = workloads.small(rows)
        save(data, folder / f"{name}.npz")
        readers["slices"][name] = Slices(data.columns["X"])
    for backend, options in KINDS.items():
        readers[backend] = {n: kd.load_dataset(folder / f"{n}.npz", collate="packed", **options) for n in names}
        for dataset in readers[backend].values():
            for part in np.array_split(np.arange(len(dataset)), len(dataset) // 1000):
                dataset[part]  # every row is checked once
    found: Facts = {}
    rng = np.random.default_rng(0)
    for _ in range(2 * ROUNDS):
        for backend, pair in readers.items():
            for name, rows in names.items():
                chosen = [rng.integers(0, rows, 128).tolist() for _ in range(100)]
                rate = 128 * len(chosen) / seconds(lambda r=pair[name], c=chosen: [len(r[rows]) for rows in c])
                found.setdefault(f"{backend}_{name}", []).append(rate)
    return found


class Slices:
    """What any store does at least: slices of an array in memory, put together."""

    def __init__(self, column: workloads.Column) -> None:
        self.values, self.offsets = column.values, column.offsets

    def __getitem__(self, rows: list[int]) -> NDArray[Any]:
        pairs = zip(self.offsets[rows].tolist(), self.offsets[1:][rows].tolist(), strict=True)
        return np.concatenate([self.values[a:b] for a, b in pairs])


def opening_parquet(folder: Path) -> Facts:
    """Opening KinoML's Parquet file, decoded, and `ak.from_parquet`."""
    Awkward().write(workloads.ragged(), folder)
    path = folder / "data.parquet"
    found: Facts = {"ours_ms": [], "awkward_ms": []}
    for _ in range(ROUNDS):
        found["awkward_ms"].append(1e3 * seconds(lambda: ak.from_parquet(path)))
        found["ours_ms"].append(1e3 * seconds(lambda: kd.load_dataset(path, X="0", y="1").close()))
    return found


def parquet_over_budget(folder: Path) -> Facts:
    """Epochs over a Parquet file whose columns take several times its memory budget of 100 MB, and the peak of memory.

    The file is our own, with two columns; the two orders are read in turns.
    """
    path, budget, rows = folder / "data.parquet", 100_000_000, 60_000
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 80, rows)
    X = kd.Ragged(rng.random(20 * lengths.sum(), np.float32), np.stack([np.full(rows, 20), lengths], axis=1))  # 240 MB
    kd.save_dataset(kd.from_arrays(X, np.arange(rows)), path)
    kd.save_dataset(kd.from_arrays(X[:100], np.arange(100)), folder / "small.parquet")
    del X
    for _ in kd.load_dataset(folder / "small.parquet", memory_budget=0).as_dataloader(shuffle=True):
        pass  # so that imports and caches are there
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts again from here
    before = peak_bytes()
    dataset = kd.load_dataset(path, memory_budget=budget, collate="packed")
    found: Facts = {"in_order": [], "shuffled": []}
    for _ in range(3):
        for name, shuffle in (("in_order", False), ("shuffled", True)):
            loader = dataset.as_dataloader(batch_size=128, shuffle=shuffle)
            found[name].append(
                rows / seconds(lambda loader=loader: require(sum(len(y) for _, y in loader) == rows, "rows"))
            )
    found["budgets"] = [(peak_bytes() - before) / budget]
    return found


def featurizing(folder: Path) -> Facts:
    """Rows per second of an epoch in which each row is computed when it is read, with 0 and with 2 workers, in turn."""
    spec: dict[str, Any] = {"storage": {"backend": "featurize-on-access", "memory_budget": 0}}
    spec |= {"columns": {"X": {"dtype": "float32", "shape": [53, "*"]}, "y": {"dtype": "float64"}}, "X": "X", "y": "y"}
    source = {"number": np.arange(2000), "y": np.zeros(2000)}
    dataset = kd.load_dataset(spec, data=source, featurizer=_slow)
    found: Facts = {}
    loaders = {n: dataset.as_dataloader(batch_size=128, shuffle=True, num_workers=n, collate="packed") for n in (0, 2)}
    for turn in range(ROUNDS + 1):  # the first starts the workers
        for workers, loader in loaders.items():
            rate = len(dataset) / seconds(lambda loader=loader: [len(y) for _, y in loader])
            if turn:
                found.setdefault(f"workers_{workers}", []).append(rate)
    return found


def _slow(number: Any) -> NDArray[np.float32]:
    """About 0.3 ms of work in Python."""
    length = 20 + int(number) % 80
    return np.array([math.sin(i) for i in range(53 * length)], np.float32).reshape(53, length)


def with_a_model(folder: Path) -> Facts:
    """Milliseconds a batch in each way of loading, beside a model that frees the interpreter, and one that does not."""
    save(workloads.ragged(), folder / "data.npz")
    dataset = kd.load_dataset(folder / "data.npz")
    weights = torch.rand(300, 300)

    def free() -> None:
        for _ in range(3):
            weights @ weights

    def busy() -> None:
        end = perf_counter() + 0.001
        while perf_counter() < end:
            pass

    ways: dict[str, dict[str, Any]] = {"alone": {}, "prefetch": {"prefetch": 2}}
    ways |= {f"workers_{n}": {"num_workers": n} for n in (1, 2)}
    loaders = {
        name: dataset.as_dataloader(batch_size=128, shuffle=True, collate="packed", **options)
        for name, options in ways.items()
    }
    found: Facts = {}
    for turn in range(ROUNDS + 1):  # in the first, workers start and rows are checked
        for model in (free, busy):
            for name, loader in loaders.items():
                took = 1e3 * seconds(lambda loader=loader, model=model: [model() for _ in loader]) / len(loader)
                if turn:
                    found.setdefault(f"{model.__name__}_{name}", []).append(took)
    return found


def ten_million_rows(folder: Path) -> Facts:
    """Opening a flat NPZ of 10,000,000 rows without splits and with two in files, and the bytes that a worker takes.

    The bytes are those by which a worker over 3,000,000 rows of a split exceeds one over 1,000,000, per row.
    """
    rows, rng = 10 * MANY, np.random.default_rng(0)
    save_apart(rows, folder / "data.npz")
    order = rng.permutation(rows)
    for name, array in {"a": order[:MANY], "b": order[MANY:]}.items():
        np.save(folder / f"{name}.npy", array)
    kinds: dict[str, Any] = {"without": {}, "files": {name: {"file": f"{name}.npy"} for name in ("a", "b")}}
    storage = {"backend": "npz-lazy", "path": "data.npz"}
    found: Facts = {}
    for _ in range(ROUNDS):
        for kind, splits in kinds.items():
            spec = {"storage": storage, "splits": splits}
            time = 1e3 * seconds(lambda s=spec: kd.load_dataset(s, base=folder).close())
            found.setdefault(f"{kind}_ms", []).append(time)
    for method in ("fork", "spawn"):
        sizes = []
        for count in (MANY, 3 * MANY):
            path = folder / f"{count}.npz"
            if not path.exists():
                save_apart(count, path)
            np.save(folder / "most.npy", order[order < count][: count * 9 // 10])
            storage = {"backend": "npz-lazy", "path": path.name}
            spec = {"storage": storage, "splits": {"most": {"file": "most.npy"}}}
            dataset = kd.load_dataset(spec, base=folder, split="most", collate="packed")
            sizes.append(worker_bytes(dataset, method))
        found[f"{method}_bytes_per_row"] = [(sizes[1] - sizes[0]) / (2 * MANY)]
    return found


def worker_bytes(dataset: kd.XyDataset, method: str) -> int:
    """The private memory of the larger of two workers after an epoch."""
    loader = dataset.as_dataloader(
        batch_size=16384, num_workers=2, shuffle=True, seed=0, multiprocessing_context=method
    )
    require(sum(len(y) for _, y in loader) == len(dataset), "rows")
    return max(private_bytes(worker.pid) for worker in loader._iterator._workers)


def save_apart(rows: int, path: Path) -> None:
    """Rows of 1 to 9 float32 and a float32 y as a flat NPZ. Another process writes it: memory that this one frees and
    uses again would count as that of its forked workers.
    """
    code = (
        "import sys, numpy as np, kinoml_data as kd; rows, path = int(sys.argv[1]), sys.argv[2];"
        "rng = np.random.default_rng(0); lengths = rng.integers(1, 10, (rows, 1));"
        "X = kd.Ragged(rng.random(int(lengths.sum()), np.float32), lengths);"
        "kd.save_dataset(kd.from_arrays(X, rng.random(rows, np.float32)), path)"
    )
    subprocess.run([sys.executable, "-c", code, str(rows), str(path)], check=True)


FACTS: dict[str, Callable[[Path], Facts]] = {
    fact.__name__: fact
    for fact in (
        *(opening_members, opening_many_members, opening_flat, opening_parquet),
        *(worker_memory, descriptors, growth, ten_million_rows, parquet_over_budget),
        *(featurizing, with_a_model),
    )
}

# -- helpers


def seconds(work: Callable[[], Any]) -> float:
    gc.collect()
    start = perf_counter()
    kept = work()
    found = perf_counter() - start
    del kept
    return found


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"wrong {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=[*FACTS, "all"], default="all")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.name != "all":
        warnings.filterwarnings("ignore")
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            print(json.dumps(FACTS[options.name](Path(folder))))
        return
    results: dict[str, Any] = {}
    for name in FACTS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.limits", name], capture_output=True, text=True, timeout=600, check=False
        )
        failed = {"error": done.stderr.strip().splitlines()[-1:]}
        results[name] = json.loads(done.stdout) if done.returncode == 0 else failed
        print(name, results[name], file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "limits.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
