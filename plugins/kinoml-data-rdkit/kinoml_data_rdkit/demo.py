"""`kinoml-data demo`: from 1,017 molecules to a trained model, through five backends.

The demo uses public names only, and everything that it makes stays in the folder to be read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinoml_data as kd
import torch
from kinoml_data.errors import CorruptStoreError, StoreExistsError
from torch import Tensor, nn

from kinoml_data_rdkit.molecules import chembl_demo

MARK = "# Made by `kinoml-data demo`"
WRITTEN = ".written.json"
BACKENDS = ("featurize-on-access", "npz-lazy", "npz-reopen", "parquet-awkward", "in-memory")
BATCH, EPOCHS, SEED = 64, 60, 0

SPEC = """\
# {about}
format: 1
name: {name}
columns:
{columns}
  pIC50: {{dtype: float32}}
  id: {{dtype: str}}
  smiles: {{dtype: str}}
X: {X}
y: pIC50
meta: [id, smiles]
storage:
  backend: featurize-on-access
  source: {{backend: csv, path: molecules.csv, dtypes: {{id: str}}}}  # columns id, smiles, pIC50
  featurizer: {featurizer}  # from the plugin kinoml-data-rdkit
splits: {{ratios: {{train: 0.8, val: 0.1, test: 0.1}}, seed: 0}}
observation_model: {{name: pIC50, substrate_conc: 1.0e-6}}  # from dG/kT, which the model predicts, to y
{collate}"""
SPECS = {
    "fingerprint": {
        "about": "A Morgan fingerprint: 1024 bits, stored as 128 bytes and given as 1024 float32 in a batch.",
        "columns": "  fingerprint: {dtype: float32, shape: [1024], packbits: true}",
        "X": "fingerprint",
        "featurizer": "{name: morgan-fingerprint, nbits: 1024, packbits: true}",
        "collate": "",
    },
    "smiles": {
        "about": "The SMILES one-hot encoded: a row per symbol of the alphabet, a column per symbol of the SMILES.",
        "columns": '  one_hot: {dtype: float32, shape: [53, "*"]}  # uint8 in the store; "*": as long as the SMILES',
        "X": "one_hot",
        "featurizer": "{name: one-hot-smiles}",
        "collate": "collate: {one_hot: {form: pad, value: 0}}  # a batch is as long as its longest SMILES\n",
    },
    "graph": {
        "about": "The molecular graph: bonds as pairs of atoms, and 42 features of each atom.",
        "columns": '  edge_index: {dtype: int64, shape: [2, "*"]}\n  atoms: {dtype: float32, shape: ["*", 42]}',
        "X": "[edge_index, atoms]  # a list of columns: X is {name: ...}",
        "featurizer": "{name: molecular-graph}",
        "collate": "collate: list  # a tensor per molecule\n",
    },
}
ABOUT = """{mark}

| file | what it is |
| --- | --- |
| `molecules.csv` | the molecules: id, SMILES, pIC50 |
| `<features>.featurize-on-access.yaml` | spec: features computed from `molecules.csv` as rows are read; start here |
| `<features>.npz`, `<features>.parquet` | the same features, stored |
| `<features>.<backend>.yaml` | spec: the same dataset, read from a file by another backend |
| `predicted.png` | the model's predictions for the test rows |
| `report.html` | what is in `smiles.npz`: values, splits, lengths, molecules; open it in a browser |

`<features>` is `fingerprint`, `smiles` or `graph`. `kinoml-data inspect FILE` shows what any of these
files contains, and `kinoml_data.load_dataset(FILE)` loads it. If you run the demo again, it replaces these files, but
none that has been changed: the file `{written}` says what it wrote.
"""
NEXT = """\
In Python
  import kinoml_data as kd
  dataset = kd.load_dataset({python})
  for X, y in dataset.split("train").as_dataloader(batch_size=64, shuffle=True, seed=0): ...

Done in {seconds:.0f} s. Next, with these files, or with a CSV file of your own in a copy of the spec:
  kinoml-data inspect {csv}
  kinoml-data splits {spec}
  kinoml-data convert {spec} {target}
"""


@dataclass(frozen=True)
class Result:
    """The result of a run of the demo.

    Attributes:
        specs: the spec files, by features and backend.
        rmse, r2: the root-mean-square error, in units of pIC50, and R2 of the predictions for the test rows.
        baseline: the RMSE of predicting the mean of the training rows.
        seconds: how long the demo took.
    """

    specs: Mapping[tuple[str, str], Path]
    rmse: float
    r2: float
    baseline: float
    seconds: float


def run(out: Path) -> Result:
    """Run the demo, which prints what it does.

    Args:
        out: the folder to write to: a new one, an empty one, or that of an earlier demo.

    Raises:
        StoreExistsError: the folder contains something else, or a file of an earlier demo was changed since.
        FileNotFoundError: this build of RDKit does not include the molecules.
        CorruptStoreError: two backends give different tensors, which would be a bug.
    """
    start, threads = time.perf_counter(), torch.get_num_threads()
    molecules = chembl_demo()
    _prepare(out)
    torch.set_num_threads(1)  # batches this small gain nothing from more threads and lose a lot on a busy machine
    try:
        return _run(out, molecules, start)
    finally:
        _remember(out)
        torch.set_num_threads(threads)


def _run(out: Path, molecules: Mapping[str, Any], start: float) -> Result:
    print("\n1. Molecules")
    _write_csv(out / "molecules.csv", molecules)
    count, low, high = len(molecules["id"]), min(molecules["activity"]), max(molecules["activity"])
    print(f"{count:,} molecules with an activity of {low} to {high}, from an example that RDKit includes.")
    print("The example calls the activity 'Act' and does not say what was measured. ASSUMED here: a pIC50,")
    print("-log10(IC50 in mol/l), at a substrate concentration of 1e-6 mol/l and Km = 1 mol/l, KinoML's defaults.")

    print("\n2. Features, computed by RDKit and stored")
    specs: dict[tuple[str, str], Path] = {}
    for features, parts in SPECS.items():
        specs |= _store(out, features, parts)
        print(", ".join(f"{features}.{end} {_size(out / f'{features}.{end}')}" for end in STORES))

    print("\n3. The same tensors from every backend")
    print(LINE.format("features", "backend", "open", "rows/s", "again", "on disk", "tensors"))
    for features in SPECS:
        for row in _compare(features, {b: path for (f, b), path in specs.items() if f == features}):
            print(LINE.format(*row))
    print(f"rows/s: a first epoch, shuffled, in batches of {BATCH}; it compares checksums, or computes the features.")
    print("again: a second epoch; features that were computed are remembered.")
    print("same: X, y, splits and ids are those of featurize-on-access, bit for bit.")

    print("\n4. A model of the fingerprints")
    with kd.load_dataset(specs["fingerprint", "npz-lazy"]) as dataset:
        print(dataset)
        print("The model predicts dG/kT, which the observation model pIC50 compares with the measured values.")
        measured, predicted, baseline = _train(dataset)
    rmse = _rmse(predicted, measured)
    r2 = 1 - float(((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())
    print(f"{len(measured)} test rows, never trained on: RMSE {rmse:.2f}, R2 {r2:.2f}")
    print(f"(predicting the mean of the training rows: RMSE {baseline:.2f}, R2 about 0)")
    plot = out / "predicted.png"
    _plot(plot, measured, predicted, f"Test rows: RMSE {rmse:.2f}, R² {r2:.2f}")

    print("\n5. A page to look at")
    report = out / "report.html"
    with kd.load_dataset(specs["smiles", "npz-lazy"]) as dataset:
        dataset.report(report, overwrite=True)
    print(f"{report} shows what is in {out / 'smiles.npz'}; open it in a browser.")
    print(f"{plot} shows the predictions, and {out / 'README.md'} explains the other files.\n")
    spec = specs["fingerprint", "featurize-on-access"]
    files = {"csv": out / "molecules.csv", "spec": spec, "target": out / "copy.npz"}
    seconds = time.perf_counter() - start
    commands = {name: shlex.quote(str(file)) for name, file in files.items()}
    print(NEXT.format(python=json.dumps(str(spec)), seconds=seconds, **commands), end="")
    return Result(specs, rmse, r2, baseline, seconds)


# -- 1


def _prepare(out: Path) -> None:
    """Make the folder, unless something that the demo did not write would be replaced.

    Raises:
        StoreExistsError: the folder contains something else, or a file of an earlier demo was changed since.
    """
    written = _written(out)
    if out.exists() and written is None and (not out.is_dir() or any(out.iterdir())):
        raise StoreExistsError(f"{out} contains files that are not from a demo; name another folder: --out FOLDER")
    for name in _files():
        file = out / name
        if file.exists() and (written or {}).get(name) != _digest(file):
            raise StoreExistsError(
                f"{file} is not as the demo wrote it; move it to another folder, or name another one: --out FOLDER"
            )
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(ABOUT.format(mark=MARK, written=WRITTEN), "utf-8")
    _remember(out)


def _files() -> list[str]:
    """The names of all files that the demo writes, apart from the list of them."""
    stored = [f"{features}.{end}" for features in SPECS for end in STORES]
    specs = [f"{features}.{backend}.yaml" for features in SPECS for backend in BACKENDS]
    return ["README.md", "molecules.csv", "predicted.png", "report.html", *stored, *specs]


def _written(out: Path) -> dict[str, str] | None:
    """The digests of the files that an earlier demo wrote, by name; None if there was none."""
    try:
        found = json.loads((out / WRITTEN).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _remember(out: Path) -> None:
    """Note what is in the files, so that a later demo notices if one of them was changed."""
    digests = {name: _digest(out / name) for name in _files() if (out / name).is_file()}
    (out / WRITTEN).write_text(json.dumps(digests, indent=1), "utf-8")


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _write_csv(path: Path, molecules: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "smiles", "pIC50"))
        writer.writerows(zip(molecules["id"], molecules["smiles"], molecules["activity"], strict=True))


# -- 2

STORES = {"npz": "npz-lazy", "parquet": "parquet-awkward"}
LINE = "{:<11}  {:<19}  {:>7}  {:>9}  {:>9}  {:>8}  {}"


def _store(out: Path, features: str, parts: Mapping[str, str]) -> dict[tuple[str, str], Path]:
    """Write the spec that computes the features, both stores, and a spec for each other backend."""
    specs = {(features, name): out / f"{features}.{name}.yaml" for name in BACKENDS}
    computed = specs[features, "featurize-on-access"]
    computed.write_text(SPEC.format(name=f"chembl-{features}", **parts), "utf-8")
    with kd.load_dataset(computed) as dataset:
        for end, backend in STORES.items():
            kd.convert(dataset, out / f"{features}.{end}", overwrite=True).to_file(specs[features, backend])
    for backend in ("npz-reopen", "in-memory"):
        with kd.load_dataset(specs[features, "npz-lazy"], backend=backend) as other:
            other.spec.to_file(specs[features, backend])
    return specs


# -- 3


def _compare(features: str, specs: Mapping[str, Path]) -> list[tuple[str, ...]]:
    """A row of the table for each backend.

    Raises:
        CorruptStoreError: a backend gives other tensors, splits or ids than the first one.
    """
    rows, expected = [], None
    for backend, path in specs.items():
        start = time.perf_counter()
        dataset = kd.load_dataset(path)
        opening = time.perf_counter() - start
        with dataset:
            loader = dataset.as_dataloader(batch_size=BATCH, shuffle=True, seed=SEED)
            speeds = [_rows_per_second(loader, len(dataset)) for _ in range(2)]
            content = _bits((dataset[:], dataset.indices, dataset.column("id")))
        expected = expected or content
        if content != expected:
            raise CorruptStoreError(f"{path} does not give the tensors of {next(iter(specs.values()))}")
        rows.append((features, backend, f"{1e3 * opening:.0f} ms", *speeds, _size(_stored_file(path)), "same"))
    return rows


def _stored_file(spec: Path) -> Path:
    """The file at the bottom of a spec's storage."""
    storage: Any = kd.DatasetSpec.from_file(spec).storage.model_dump(mode="json")
    while "source" in storage:
        storage = storage["source"]
    return spec.parent / str(storage["path"])


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 1e3:,.0f} kB"


def _rows_per_second(loader: Iterable[Any], rows: int) -> str:
    start = time.perf_counter()
    for _ in loader:
        pass
    return f"{rows / (time.perf_counter() - start):,.0f}"


def _bits(value: Any) -> Any:
    """Nested tensors in a form to compare: dtype, shape and bytes of each."""
    if isinstance(value, Mapping):
        return {name: _bits(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bits(item) for item in value]
    if isinstance(value, str):
        return value
    array = value.numpy() if isinstance(value, Tensor) else value
    return str(array.dtype), array.shape, array.tobytes()


# -- 4


def _train(dataset: kd.XyDataset) -> tuple[Tensor, Tensor, float]:
    """Train on the training rows and use the weights that are best on the validation rows.

    Returns:
        The measured and the predicted pIC50 of the test rows, float32 `(rows,)`, and the baseline's RMSE.
    """
    torch.manual_seed(SEED)
    observe: Callable[..., Tensor] = dataset.observation_model
    train = dataset.split("train").as_dataloader(batch_size=BATCH, shuffle=True, seed=SEED)
    splits: dict[str, Any] = {name: dataset.split(name)[:] for name in dataset.indices}
    (X, y), (X_val, y_val), (X_test, y_test) = splits["train"], splits["val"], splits["test"]
    last = nn.Linear(256, 1)
    # The first prediction is the mean of the measurements: dG/kT is about -ln(10) pIC50.
    nn.init.constant_(last.bias, -math.log(10) * float(y.mean()))
    model = nn.Sequential(nn.Linear(X.shape[1], 256), nn.ReLU(), nn.Dropout(0.3), last, nn.Flatten(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    best, best_weights = math.inf, {}
    for _ in range(EPOCHS):
        model.train()
        for features, measured in train:
            optimizer.zero_grad()
            loss: Any = nn.functional.mse_loss(observe(model(features)), measured)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            error = float(nn.functional.mse_loss(observe(model(X_val)), y_val))
        if error < best:
            best, best_weights = error, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_weights)
    with torch.no_grad():
        predicted = observe(model(X_test))
    return y_test, predicted, _rmse(y.mean().expand_as(y_test), y_test)


def _rmse(predicted: Tensor, measured: Tensor) -> float:
    return math.sqrt(float(((predicted - measured) ** 2).mean()))


def _plot(path: Path, measured: Tensor, predicted: Tensor, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)  # needs no display and does not use pyplot
    axes = figure.add_subplot()
    both = torch.cat([measured, predicted])
    ends = math.floor(float(both.min())), math.ceil(float(both.max()))
    axes.plot(ends, ends, color="0.6", linewidth=1, zorder=1)
    axes.scatter(measured.numpy(), predicted.numpy(), s=18, alpha=0.7, linewidths=0, zorder=2)
    axes.set(
        xlim=ends, ylim=ends, aspect="equal", xlabel="measured pIC50 (assumed)", ylabel="predicted pIC50", title=title
    )
    axes.set_xticks(axes.get_yticks())
    axes.set(xlim=ends, ylim=ends)
    canvas.print_figure(path, dpi=150)
