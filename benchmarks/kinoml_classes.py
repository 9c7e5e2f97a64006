"""KinoML's classes against the core beneath them: the same calls, in turn, in one process.

Run `python -m benchmarks.kinoml_classes`; a ratio of 1 means that the class costs nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch
from torch.utils.data import DataLoader

from kinoml_data.torch_datasets import (
    AwkwardArrayDataset,
    MultiXTorchDataset,
    PrefeaturizedTorchDataset,
    TorchDataset,
    XyTorchDataset,
)

ROWS, BATCH, ROUNDS = 4000, 128, 15


def datasets(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    smiles = [rng.integers(0, 2, (53, int(n))).astype("float64") for n in rng.integers(20, 101, ROWS)]
    fixed, y = rng.normal(size=(ROWS, 1024)).astype("float32"), rng.normal(size=ROWS).astype("float32")
    np.savez(folder / "xy.npz", X=fixed, y=y)
    np.savez(folder / "multi.npz", **{f"X_s{row}_": x for row, x in enumerate(smiles)}, y=y)
    ak.to_parquet(ak.zip([ak.Array(smiles), y], depth_limit=1), folder / "a.parquet")
    return {
        "PrefeaturizedTorchDataset": PrefeaturizedTorchDataset(smiles, y),
        "TorchDataset": TorchDataset(list(range(ROWS)), y, lambda row: smiles[row]),
        "XyTorchDataset": XyTorchDataset.from_npz(folder / "xy.npz"),
        "MultiXTorchDataset lazy": MultiXTorchDataset.from_npz(folder / "multi.npz"),
        "MultiXTorchDataset preloaded": MultiXTorchDataset.from_npz(folder / "multi.npz", lazy=False),
        "AwkwardArrayDataset": AwkwardArrayDataset.from_parquet(folder / "a.parquet"),
    }


def calls(dataset: Any) -> dict[str, Callable[[], Any]]:
    rows = np.random.default_rng(1).integers(0, ROWS, BATCH).tolist()

    def epoch() -> None:
        for _ in DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=plain.collate_fn):
            pass

    plain = getattr(dataset, "core", dataset)
    return {
        "100 x ds[i]": lambda: [dataset[row] for row in rows[:100]],
        "ds[128 rows]": lambda: dataset[rows],
        "epoch": epoch,
    }


def main() -> None:
    torch.set_num_threads(1)
    print("| class | call | class, ms | core, ms | class / core |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, dataset in datasets(Path(folder)).items():
            ours, core = calls(dataset), calls(dataset.core)
            for label in ours:
                times: dict[str, list[float]] = {"ours": [], "core": []}
                for turn in range(ROUNDS + 1):  # the first turn warms up
                    pair = [("ours", ours[label]), ("core", core[label])]
                    for who, call in pair if turn % 2 else pair[::-1]:  # whoever comes second finds warm caches
                        start = time.perf_counter()
                        call()
                        if turn:
                            times[who].append(time.perf_counter() - start)
                a, b = (1e3 * statistics.median(times[who]) for who in ("ours", "core"))
                ratio = statistics.median(x / y for x, y in zip(times["ours"], times["core"], strict=True))
                print(f"| {name} | {label} | {a:.3f} | {b:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
