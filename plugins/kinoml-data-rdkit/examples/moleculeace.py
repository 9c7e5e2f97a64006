"""What a leak does to R2: two models on the 30 sets of MoleculeACE, split in several ways.

It needs matplotlib, and the data in the wheel of MoleculeACE::

    pip install matplotlib && pip install --no-deps MoleculeACE==3.0.0
    python plugins/kinoml-data-rdkit/examples/moleculeace.py study

The first run writes the features to study/moleculeace.npz. Every run prints the results, and writes them to
study/results.csv and study/leak.png. docs/study.md explains them.
"""

from __future__ import annotations

import copy
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kinoml_data as kd
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.floating[Any]]
BITS, FOLDS, BATCH = 1024, 5, 512
PUBLISHED = {"folds": FOLDS, "labels": {"column": "subset"}, "seed": 0}
RATIOS = {"folds": FOLDS, "ratios": {"test": 0.2}, "seed": 0}
SPLITS: dict[str, dict[str, Any]] = {
    "published": PUBLISHED,
    "published, no leak": PUBLISHED,  # without the training rows of test molecules; see `rows_to_leave_out`
    "random": RATIOS,
    "by molecule": RATIOS | {"by": "inchikey"},
    "by scaffold": RATIOS | {"by": "scaffold"},
}
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda outputs: nn.Linear(BITS, outputs),
    "MLP": lambda outputs: nn.Sequential(nn.Linear(BITS, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, outputs)),
}


# -- the table


def benchmark_folder() -> Path | None:
    """The folder of the 30 CSV files in an installed MoleculeACE, which is not imported; None if there is none."""
    package = find_spec("MoleculeACE")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(next(iter(package.submodule_search_locations))) / "Data" / "benchmark_data"


def merge(folder: Path, target: Path, sets: Sequence[str] = ()) -> None:
    """Write one CSV file of all measurements: smiles, set, subset (train or test, as published) and pActivity.

    Args:
        folder: the CSV files, in which y is -log10 of nM.
        target: the file to write. pActivity is -log10 of mol/L.
        sets: the names of the files to take; all by default.
    """
    with target.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["smiles", "set", "subset", "pActivity"])
        for path in sorted(folder.glob("*.csv")):
            if not sets or path.stem in sets:
                with path.open(encoding="utf-8", newline="") as one:
                    for row in csv.DictReader(one):
                        table.writerow([row["smiles"], path.stem, row["split"], float(row["y"]) + 9])


def featurize(table: Path, target: Path) -> None:
    """Write the features of all measurements, but of several of one molecule in one set only the first."""
    sets = sorted(set(kd.load_dataset(table, X="pActivity", meta=["set"]).column("set")))
    spec = {
        "columns": {
            "fingerprint": {"dtype": "float32", "shape": [BITS], "packbits": True},
            "set": {"dtype": "int64", "values": sets},
            "pActivity": {"dtype": "float32"},
            **{name: {"dtype": "str"} for name in ("smiles", "inchikey", "scaffold", "subset")},
        },
        "X": ["fingerprint", "set"],
        "y": "pActivity",
        "meta": ["smiles", "inchikey", "scaffold", "subset"],
        "storage": {
            "backend": "featurize-on-access",
            "source": {"backend": "csv", "path": str(table)},
            "featurizer": [
                {"name": "morgan-fingerprint", "nbits": BITS, "packbits": True},
                {"name": "inchikey", "connectivity": True},  # a fingerprint does not see stereochemistry, either
                {"name": "murcko-scaffold"},
            ],
        },
    }
    with kd.load_dataset(spec) as dataset:
        measured = zip(dataset.column("inchikey"), dataset.column("set").tolist(), strict=True)
        first = {pair: row for row, pair in reversed(list(enumerate(measured)))}
        kd.save_dataset(dataset.select(sorted(first.values())), target, overwrite=True)


# -- the models


class Network(nn.Module):
    """One output per set, added to the mean of the training rows of the set."""

    def __init__(self, layers: Callable[[int], nn.Module], train: kd.XyDataset) -> None:
        super().__init__()
        sets, y = train.column("set"), train.column("pActivity")
        counts = torch.bincount(sets, minlength=len(train.spec.columns["set"].values or ()))
        self.register_buffer("means", torch.bincount(sets, y, minlength=len(counts)) / counts)
        self.layers = layers(len(counts))

    def forward(self, X: Mapping[str, Tensor]) -> Tensor:
        """The predicted pActivity: `(rows,)`."""
        outputs = self.means + self.layers(X["fingerprint"])
        return outputs.gather(1, X["set"][:, None]).squeeze(1)


def train(network: Network, parts: Mapping[str, kd.XyDataset], epochs: int, patience: int = 2) -> None:
    """Train until the validation error has not fallen for some epochs, and keep the best weights."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    loader = parts["train"].as_dataloader(batch_size=BATCH, shuffle=True, seed=0)
    best, weights, since = np.inf, network.state_dict(), 0
    for _ in range(epochs):
        network.train()
        for X, y in loader:
            loss = nn.functional.mse_loss(network(X), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        error = float(np.square(residuals(network, parts["val"])).mean())
        since += 1
        if error < best:
            best, weights, since = error, copy.deepcopy(network.state_dict()), 0
        elif since == patience:
            break
    network.load_state_dict(weights)


def residuals(network: Network, dataset: kd.XyDataset) -> Floats:
    """The predicted minus the measured values, in the order of the rows: `(rows,)`."""
    network.eval()
    with torch.no_grad():
        parts = [network(X) - y for X, y in dataset.as_dataloader(batch_size=4096)]
    return torch.cat(parts).numpy()


# -- the comparison


@dataclass
class Result:
    """What one way to split gives.

    Attributes:
        name: the split.
        test: the test rows.
        known: the share of the test rows whose molecule is also in training or validation, 0 to 1.
        residuals: of each model, averaged over the networks of the folds, `(rows,)`.
        of_folds: R2 of each model, one for each fold.
        unit: the column whose values are drawn together in the bootstrap.
    """

    name: str
    test: kd.XyDataset
    known: float
    residuals: dict[str, Floats]
    of_folds: dict[str, list[float]]
    unit: str


def r2(residuals: Floats, test: kd.XyDataset) -> float:
    """How much of the variance within the sets is explained: 0 for a model that predicts the mean of each set."""
    y, sets = test.column("pActivity").numpy(), test.column("set").numpy()
    means = np.bincount(sets, y) / np.maximum(np.bincount(sets), 1)
    return float(1 - np.square(residuals).sum() / np.square(y - means[sets]).sum())


def rows_to_leave_out(name: str, molecules: NDArray[np.str_], test: kd.XyDataset) -> NDArray[np.bool_]:
    """Which rows are not used for training and validation.

    For "published, no leak", these are the rows of molecules that are also in test. For "published", they are as many
    other rows, drawn at random, so that both have the same number of rows to learn from.
    """
    leaks = np.isin(molecules, molecules[test.rows])
    result = np.zeros(len(molecules), bool)
    if name == "published, no leak":
        result = leaks.copy()
    elif name == "published":
        count = leaks.sum() - len(test)
        result[np.random.default_rng(0).choice(np.flatnonzero(~leaks), count, replace=False)] = True
    result[test.rows] = False
    return result


def run(store: Path, name: str, epochs: int) -> Result:
    """Train both models on each fold of a split."""
    spec = {"storage": {"backend": "npz-lazy", "path": str(store)}, "splits": SPLITS[name]}
    dataset = kd.load_dataset(spec, backend="in-memory")
    test = dataset.split("test")
    molecules = np.array(dataset.column("inchikey"))
    out = rows_to_leave_out(name, molecules, test)
    others = ~out
    others[test.rows] = False
    known = float(np.isin(molecules[test.rows], molecules[others]).mean())
    result = Result(name, test, known, {}, {}, SPLITS[name].get("by", "inchikey"))
    for model, layers in LAYERS.items():
        found = []
        for fold in range(FOLDS):
            parts = {part: view.select(~out[view.rows]) for part, view in dataset.fold(fold).items()}
            torch.manual_seed(fold)
            network = Network(layers, parts["train"])
            train(network, parts, epochs)
            found.append(residuals(network, test))
        result.residuals[model] = np.mean(found, axis=0)
        result.of_folds[model] = [r2(each, test) for each in found]
    return result


def paired_bootstrap(first, second, units, draws=2000, seed=0):
    """The RMSE of the second model minus that of the first, and its 95 % interval.

    Args:
        first, second: the residuals of both models for the same rows, (rows,).
        units: what is drawn together, such as the molecule of each row, (rows,).

    Returns:
        The difference and the two ends of the interval, in the unit of the residuals.
    """
    unit = np.unique(units, return_inverse=True)[1]
    sums = np.stack([np.bincount(unit, weights) for weights in (first**2, second**2, np.ones(len(unit)))])
    count, random = sums.shape[1], np.random.default_rng(seed)

    def difference(drawn):
        one, other, rows = sums @ np.bincount(drawn, minlength=count)
        return np.sqrt(other / rows) - np.sqrt(one / rows)

    differences = [difference(random.integers(count, size=count)) for _ in range(draws)]
    return difference(np.arange(count)), *np.quantile(differences, [0.025, 0.975])


def row_of(result: Result) -> dict[str, str]:
    """The results of one split as a row of a table."""
    difference, low, high = paired_bootstrap(*result.residuals.values(), result.test.column(result.unit))
    row = {"split": result.name, "test rows": f"{len(result.test):,}", "known": f"{100 * result.known:.1f} %"}
    for model, residuals in result.residuals.items():
        row[f"R2 {model}"] = f"{r2(residuals, result.test):.3f}"
        row[f"RMSE {model}"] = f"{np.sqrt(np.square(residuals).mean()):.3f}"
    return row | {"RMSE of MLP - linear": f"{difference:.3f} ({low:.3f} to {high:.3f})"}


def plot(results: Sequence[Result], path: Path) -> None:
    """R2 on the test rows, as bars. Dots are the single networks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)  # needs no display
    axes = figure.add_subplot()
    for place, (model, color) in enumerate(zip(LAYERS, ("tab:gray", "tab:blue"), strict=True)):
        x = np.arange(len(results)) + 0.38 * (place - 0.5)
        heights = [r2(result.residuals[model], result.test) for result in results]
        axes.bar(x, heights, 0.36, color=color, label=f"{model}, mean prediction of {FOLDS} networks")
        for at, height, result in zip(x, heights, results, strict=True):
            axes.plot([at] * FOLDS, result.of_folds[model], ".", color="black", markersize=4)
            axes.annotate(f"{height:.2f}", (at, height), ha="center", va="bottom", fontsize=8)
    axes.plot([], [], ".", color="black", label="one network")
    axes.set_xticks(range(len(results)), [result.name.replace(", ", ",\n") for result in results])
    axes.set(ylabel="R2 on the test rows")
    axes.set_ylim(0, 1)
    axes.legend(ncols=3, fontsize=8, loc="upper center")
    canvas.print_figure(path, dpi=120)


def main(out: Path, folder: Path, sets: Sequence[str] = (), epochs: int = 15) -> list[dict[str, str]]:
    """Run the study. See the top of this file.

    Args:
        out: the folder to write to. Features that are already in it are used.
        folder: the CSV files of MoleculeACE.
        sets: the names of the files to take; all by default.
        epochs: the largest number of epochs.
    """
    out.mkdir(parents=True, exist_ok=True)
    store = out / "moleculeace.npz"
    if not store.exists():
        merge(folder, out / "moleculeace.csv", sets)
        featurize(out / "moleculeace.csv", store)
    results, rows = [], []
    for name in SPLITS:
        results.append(run(store, name, epochs))
        rows.append(row_of(results[-1]))
        print(*(f"{key}: {value}" for key, value in rows[-1].items()), sep="; ", flush=True)
    with_leak, without = results[:2]
    for model in LAYERS:
        pair = without.residuals[model], with_leak.residuals[model]
        difference, low, high = paired_bootstrap(*pair, without.test.column("inchikey"))
        print(f"leak, {model}: the RMSE changes by {difference:.3f} ({low:.3f} to {high:.3f})")
    with (out / "results.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    plot(results, out / "leak.png")
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: moleculeace.py FOLDER")
    benchmark = benchmark_folder()
    if benchmark is None:
        sys.exit("MoleculeACE is not installed: pip install --no-deps MoleculeACE==3.0.0")
    torch.set_num_threads(1)  # the same results on every machine, and faster if other programs run
    main(Path(sys.argv[1]), benchmark)
