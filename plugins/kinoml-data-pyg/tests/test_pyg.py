"""A batch in the form `pyg` is what PyTorch Geometric makes of the single graphs."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import kinoml_data as kd
import numpy as np
import pytest
import torch
from kinoml_data.cli.json_schema import json_schema
from kinoml_data.errors import SampleIndexError, SpecError
from kinoml_data.loading import shared_ring as ring
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader as GeometricDataLoader
from torch_geometric.nn import GCNConv, global_mean_pool

from kinoml_data_pyg import AwkwardArrayGeometricDataset, GraphBatch

rng = np.random.default_rng(0)
# Graphs without edges, and one without nodes.
NODES = [3, 1, 7, 0, 2, 12, 5, 5, 1, 30]
EDGES = [4, 0, 20, 0, 2, 30, 8, 0, 1, 60]
ROWS = len(NODES)
X = {
    "edge_index": [rng.integers(0, max(n, 1), (2, e)) for n, e in zip(NODES, EDGES, strict=True)],
    "x": [rng.random((n, 4), np.float32) for n in NODES],
    "edge_attr": [rng.random((e, 3), np.float32) for e in EDGES],
    "pos": [rng.random((n, 3)) for n in NODES],
    "z": [rng.integers(1, 90, n) for n in NODES],
    "edge_weight": [rng.random(e) for e in EDGES],
    "face": [rng.integers(0, max(n, 1), (3, n)) for n in NODES],
    "root_index": [np.arange(min(n, 2)) for n in NODES],
    "fingerprint": rng.integers(0, 2, (ROWS, 16)).astype(bool),
    "charge": rng.integers(-2, 3, ROWS),
}
Y = rng.random(ROWS)


def single(X: dict[str, torch.Tensor], y: Any, spec: kd.DatasetSpec) -> Data:
    """A sample as `Data`: what belongs to the graph has an axis more, as PyTorch Geometric wants it."""
    values = {**X, **(y if isinstance(y, dict) else {} if y is None else {"y": y})}
    columns = {**(spec.columns or {})} | ({"y": (spec.columns or {})[spec.y]} if isinstance(spec.y, str) else {})
    level = re.compile("x|pos|edge_.*")
    return Data(
        **{n: v if columns[n].ragged or level.fullmatch(n) else v.unsqueeze(0) for n, v in values.items()},
    )


def expected(ds: kd.XyDataset, rows: Sequence[int]) -> Batch:
    return Batch.from_data_list([single(*ds[row], ds.spec) for row in rows])


def same_value(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape and torch.equal(found, wanted)
    else:
        assert found == wanted


def same(found: Batch, wanted: Batch) -> None:
    """Bit for bit, with the numbers by which a batch comes apart again."""
    assert type(found) is type(wanted)
    assert found.keys() == wanted.keys()
    for key in wanted.keys():  # noqa: SIM118 - a Batch is no dict
        same_value(found[key], wanted[key])
        assert found[key].is_contiguous()
    assert (found.num_graphs, found.num_nodes, found.num_edges) == (
        wanted.num_graphs,
        wanted.num_nodes,
        wanted.num_edges,
    )
    for name in ("_slice_dict", "_inc_dict"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            same_value(ours[key], theirs[key])
    for ours, theirs in zip(found.to_data_list(), wanted.to_data_list(), strict=True):
        assert set(ours.keys()) == set(theirs.keys())  # PyTorch Geometric keeps no order here
        for key in theirs.keys():  # noqa: SIM118
            same_value(ours[key], theirs[key])


def pick(*names: str) -> dict[str, Any]:
    return {name: X[name] for name in names}


def load(X: dict[str, Any], y: Any = Y) -> kd.XyDataset:
    spec = kd.DatasetSpec.parse(kd.from_arrays(X, y).spec.to_mapping() | {"collate": "pyg"})
    data = {**X, **(y if isinstance(y, dict) else {} if y is None else {"y": y})}
    return kd.load_dataset(spec, data=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    ds = load(pick("edge_index", "x", "edge_attr"))
    for file in ("graphs.npz", "graphs.parquet"):
        kd.save_dataset(ds, folder / file)
    return folder


CHOICES = {
    "edge_index, x": pick("edge_index", "x"),
    "x, edge_attr, edge_index": pick("x", "edge_attr", "edge_index"),
    "pos, z": pick("pos", "z"),
    "all": X,
}
each_choice = pytest.mark.parametrize("columns", CHOICES.values(), ids=CHOICES)


@each_choice
@pytest.mark.parametrize("rows", [[0], [3], [1, 3], [9, 0, 0, 5], list(range(ROWS))], ids=str)
def test_a_batch_equals_that_of_the_single_graphs(columns: dict[str, Any], rows: list[int]) -> None:
    ds = load(columns)
    same(ds[rows], expected(ds, rows))


@pytest.mark.parametrize(
    ("y", "shape"),
    [
        (None, None),
        (Y.astype("float32"), (ROWS,)),
        (np.arange(ROWS), (ROWS,)),
        (rng.random((ROWS, 3)), (ROWS, 3)),
        ([rng.random((n, 2)) for n in NODES], (sum(NODES), 2)),
    ],
    ids=["none", "float", "int", "several numbers", "one per node"],
)
def test_the_y_of_a_batch_has_the_values_and_the_shape_of_its_column(y: Any, shape: tuple[int, ...] | None) -> None:
    ds = load(pick("edge_index", "x"), y)
    rows = list(range(ROWS))
    same(ds[:], expected(ds, rows))
    assert ds[:].y is None if shape is None else ds[:].y.shape == shape


def test_a_single_y_is_y_under_any_name_and_several_keep_theirs() -> None:
    one = load(pick("edge_index", "x"), {"pIC50": Y})
    spec = kd.DatasetSpec.parse(one.spec.to_mapping() | {"y": "pIC50"})
    batch = kd.load_dataset(spec, data={**pick("edge_index", "x"), "pIC50": Y}, collate="pyg")[:]
    assert "pIC50" not in batch and torch.equal(batch.y, torch.from_numpy(Y))
    several = load(pick("edge_index", "x"), {"pIC50": Y, "pKi": -Y})
    same(several[2:5], expected(several, [2, 3, 4]))
    assert torch.equal(several[:].pKi, torch.from_numpy(-Y))


def test_graphs_of_one_size_stored_as_fixed_columns_join_all_the_same() -> None:
    columns = {
        "edge_index": rng.integers(0, 5, (ROWS, 2, 8)),
        "x": rng.random((ROWS, 5, 4)),
        "edge_attr": rng.random((ROWS, 8, 1)),
    }
    ds = load(columns)
    assert not ds.spec.columns["x"].ragged  # type: ignore[index]
    same(ds[[3, 1]], expected(ds, [3, 1]))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint64", "int64"])
def test_node_numbers_of_any_integer_type_come_out_as_int64(dtype: str) -> None:
    ds = load({"x": X["x"], "edge_index": [edges.astype(dtype) for edges in X["edge_index"]]})
    same(ds[:], load(pick("x", "edge_index"))[:])


def test_no_rows_are_a_batch_of_no_graphs() -> None:
    batch = load(X)[:0]
    assert batch.num_graphs == 0 and batch.to_data_list() == []
    assert batch.x.shape == (0, 4) and batch.edge_index.shape == (2, 0) and batch.ptr.tolist() == [0]


@pytest.mark.parametrize("file", ["graphs.npz", "graphs.parquet"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_with_workers_and_from_files(folder: Path, file: str, workers: int) -> None:
    ds = kd.load_dataset(folder / file)  # which carries `collate: pyg`
    assert ds.spec.collate == "pyg"
    loader = ds.as_dataloader(batch_size=4, num_workers=workers)
    for _ in range(2):
        for number, batch in enumerate(loader):
            rows = range(4 * number, min(4 * number + 4, ROWS))
            same(batch, expected(ds, rows))
        assert number == 2
    shuffled = ds.as_dataloader(batch_size=4, num_workers=workers, shuffle=True, seed=1, collate="pyg")
    assert sorted(y for batch in shuffled for y in batch.y.tolist()) == sorted(Y.tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_graph_batch_leaves_workers_through_the_ring_and_as_torch_sends_it(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = kd.load_dataset(folder / "graphs.npz")
    for through_ring in (True, False):
        monkeypatch.setattr(ring, "available", lambda through_ring=through_ring: through_ring)
        loader = ds.as_dataloader(batch_size=5, num_workers=1, multiprocessing_context=method, timeout=120)
        assert isinstance(loader.collate_fn, ring.RingCollate) == through_ring
        for number, batch in enumerate(loader):
            same(batch, expected(ds, range(5 * number, 5 * number + 5)))


def test_a_batch_that_does_not_fit_a_slot_is_sent_another_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinoml_data.loading.loader.SLOT_BYTES", 1)  # a page
    ds = load({"x": [np.full((5000, 4), row, "float32") for row in range(4)]}, np.arange(4))
    for number, batch in enumerate(ds.as_dataloader(batch_size=2, num_workers=1)):
        same(batch, expected(ds, [2 * number, 2 * number + 1]))


def test_plain_loaders_and_datasets_of_datasets_give_graph_batches(folder: Path) -> None:
    ds = kd.load_dataset(folder / "graphs.npz")
    (batch,) = DataLoader(ds, batch_size=ROWS)
    same(batch, expected(ds, range(ROWS)))
    (batch,) = DataLoader(ConcatDataset([Subset(ds, [4, 2]), ds]), batch_size=ROWS + 2)
    same(batch, expected(ds, [4, 2, *range(ROWS)]))
    (batch,) = ds.select([5, 1]).as_dataloader(batch_size=2, prefetch=1, pin_memory=False)
    same(batch, expected(ds, [5, 1]))


def test_a_batch_pickles_moves_and_owns_its_memory() -> None:
    ds = load(pick("edge_index", "x"))
    batch = ds[:]
    same(pickle.loads(pickle.dumps(batch)), batch)
    same(batch.clone().to("cpu"), batch)
    batch.x.zero_()
    batch.edge_index.zero_()
    same(ds[:], expected(ds, range(ROWS)))


def test_a_sample_is_plain_tensors_and_a_column_packed() -> None:
    ds = load(pick("edge_index", "x"))
    assert torch.equal(ds[2][0]["x"], torch.from_numpy(X["x"][2]))
    assert isinstance(ds.column("x"), kd.Packed)


# -- what does not fit together


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"edge_index": [[[1], [3]]]}, "graph 1 of the batch: edge_index refers to node 3, but the graph has 3 nodes"),
        (
            {"edge_index": [[[0], [-1]]]},
            "graph 1 of the batch: edge_index refers to node -1, but the graph has 3 nodes",
        ),
        ({"pos": [np.zeros((2, 3))]}, "graph 1 of the batch: x has 3 entries, but pos has 2"),
        ({"edge_attr": [np.zeros((2, 3))]}, "graph 1 of the batch: edge_index has 1 entries, but edge_attr has 2"),
        ({"face": [[[0], [1], [3]]]}, "face refers to node 3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_graph_that_is_none_is_an_error_and_no_edge_into_another_graph(change: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {
        "edge_index": np.array([[0], [1]]),
        "x": np.zeros((3, 2)),
        "pos": np.zeros((3, 3)),
        "edge_attr": np.zeros((1, 3)),
        "face": np.array([[0], [1], [2]]),
    }
    other = {name: np.repeat(value, 2, 0 if name in ("x", "pos", "edge_attr") else 1) for name, value in good.items()}
    rows = {name: [other[name], np.asarray(change.get(name, [value])[0])] for name, value in good.items()}
    ds = load(rows, None)
    assert ds[:1].num_graphs == 1
    with pytest.raises(SpecError, match=said):
        ds[:]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"atoms": X["x"]}, "no column has one row per node; name the features of the nodes `x`"),
        (
            {"x": X["x"], "edges": X["edge_index"]},
            "column 'edges' is joined along its first axis, so it needs at least one axis, and no other may be ragged",
        ),
        ({"x": X["x"], "edge_index": X["edge_attr"]}, "column 'edge_index' contains node numbers"),
        ({"x": X["x"], "edge_index": X["root_index"]}, r"column 'edge_index' must have the shape \[2, '\*'\]"),
        ({"x": X["x"], "edge_index": X["face"]}, "column 'edge_index' must have the shape"),
        (
            {"x": X["x"], "protein_index": X["charge"]},
            "column 'protein_index' contains node numbers, according to its name",
        ),
        ({"x": X["x"], "some_index": X["x"]}, "column 'some_index' contains node numbers"),
        ({"x": X["x"], "batch": X["charge"]}, "column 'batch' has a name that PyTorch Geometric uses"),
        ({"x": X["x"], "num_nodes": X["charge"]}, "column 'num_nodes' has a name that PyTorch Geometric uses"),
        ({"x": X["x"], "keys": X["charge"]}, "column 'keys' has a name that PyTorch Geometric uses"),
        ({"x": X["x"], "_store": X["charge"]}, "column '_store' has a name that PyTorch Geometric uses"),
        ({"x": X["charge"]}, "column 'x' is joined along its first axis"),
        ({"x": X["x"], "y": X["charge"]}, "two columns would become `y`; rename 'z'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_columns_that_make_no_graph_are_refused_when_the_dataset_opens(columns: dict[str, Any], said: str) -> None:
    ds = kd.from_arrays(columns, {"z": Y})
    spec = kd.DatasetSpec.parse(ds.spec.to_mapping() | {"y": "z", "collate": "pyg"})
    with pytest.raises(SpecError, match=f"collate: pyg: {said}"):
        kd.load_dataset(spec, data={**columns, "z": Y})
    with pytest.raises(SpecError, match=said):
        kd.load_dataset(spec, data={**columns, "z": Y}, collate="list").as_dataloader(collate="pyg")


def test_the_form_pyg_is_refused_for_a_single_column() -> None:
    with pytest.raises(
        SpecError, match=r"collate\.x: the form pyg takes the whole batch, not one column; write `collate: pyg`"
    ):
        kd.from_arrays(pick("edge_index", "x")).as_dataloader(collate={"x": "pyg"})
    assert "pyg" in json_schema()["properties"]["collate"]["anyOf"][0]["enum"]


def test_importing_the_plugin_does_not_import_pytorch_geometric() -> None:
    code = "import sys, kinoml_data as kd; kd.list_backends(); print('torch_geometric' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == "False"


# -- training


def test_a_small_network_learns_the_share_of_a_kind_of_node(tmp_path: Path) -> None:
    """Two epochs and more over a file; the loss falls far below that of a constant."""
    generator = np.random.default_rng(1)
    nodes = generator.integers(3, 20, 200)
    kinds = [np.eye(3, dtype="float32")[generator.integers(0, 3, n)] for n in nodes]
    rings = [np.array([np.arange(n), (np.arange(n) + 1) % n]) for n in nodes]
    share = np.array([kind[:, 0].mean() for kind in kinds], "float32")
    kd.save_dataset(kd.from_arrays({"x": kinds, "edge_index": rings}, share), tmp_path / "rings.npz")

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = GCNConv(3, 16), torch.nn.Linear(16, 1)

        def forward(self, batch: Any) -> torch.Tensor:
            hidden = self.first(batch.x, batch.edge_index).relu()
            out: torch.Tensor = self.last(global_mean_pool(hidden, batch.batch, batch.num_graphs))[:, 0]
            return out

    losses = []
    with torch.random.fork_rng(devices=[]), kd.load_dataset(tmp_path / "rings.npz") as ds:
        torch.manual_seed(0)
        network = Network()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        loader = ds.as_dataloader(batch_size=20, shuffle=True, seed=0, collate="pyg")
        for _ in range(2):
            losses.append(0.0)
            for batch in loader:
                loss = torch.nn.functional.mse_loss(network(batch), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses[-1] += loss.item() * batch.num_graphs / len(ds)
    assert losses[1] < 0.5 * losses[0]


# -- KinoML's dataset


def records() -> Any:
    """An awkward array of three fields, as KinoML's exporter writes it, of the rows with edges; their numbers."""
    rows = [row for row in range(ROWS) if EDGES[row]]
    edge_index, x = (ak.Array([X[name][row] for row in rows]) for name in ("edge_index", "x"))
    return ak.zip([edge_index, ak.values_astype(x, "float32"), ak.Array(Y[rows])], depth_limit=1), rows


@pytest.fixture(params=["parquet", "array"])
def kinoml(request: pytest.FixtureRequest, tmp_path: Path) -> AwkwardArrayGeometricDataset:
    array, _ = records()
    if request.param == "array":
        return AwkwardArrayGeometricDataset(array)
    ak.to_parquet(array, tmp_path / "graphs.parquet")
    found = AwkwardArrayGeometricDataset.from_parquet(tmp_path / "graphs.parquet")
    assert isinstance(found, AwkwardArrayGeometricDataset)
    return found


def test_kinomls_dataset_gives_lists_of_data_and_y(kinoml: AwkwardArrayGeometricDataset) -> None:
    _, rows = records()
    assert len(kinoml) == len(rows)
    for index, chosen in ((0, rows[:1]), (-1, rows[-1:]), ([2, 0], [rows[2], rows[0]]), (slice(1, 3), rows[1:3])):
        graphs, y = kinoml[index]
        assert y.tolist() == Y[chosen].tolist() and len(graphs) == len(chosen)
        for graph, row in zip(graphs, chosen, strict=True):
            assert sorted(graph.keys()) == ["edge_index", "x"]
            assert torch.equal(graph.x, torch.from_numpy(X["x"][row]))
            assert torch.equal(graph.edge_index, torch.from_numpy(X["edge_index"][row]))
    graphs, y = kinoml[[]]
    assert graphs == [] and len(y) == 0
    with pytest.raises(SampleIndexError):
        kinoml[len(rows)]
    with pytest.raises(NotImplementedError):
        iter(kinoml)
    assert repr(kinoml).startswith("<AwkwardArrayGeometricDataset over") and len(kinoml.data) == len(rows)


def test_records_that_are_assigned_to_kinomls_dataset_are_its_rows(kinoml: AwkwardArrayGeometricDataset) -> None:
    rows = len(kinoml)
    kinoml.data = kinoml.data[1:3]
    assert len(kinoml) == 2 < rows
    assert sum(len(batch.y) for batch in kinoml.as_dataloader(batch_size=1)) == 2


def test_kinomls_dataset_has_a_loader_of_batches(kinoml: AwkwardArrayGeometricDataset) -> None:
    _, rows = records()
    wanted = load({name: [X[name][row] for row in rows] for name in ("edge_index", "x")}, Y[rows])
    for workers in (0, 1):
        for number, batch in enumerate(kinoml.as_dataloader(batch_size=3, num_workers=workers)):
            same(batch, wanted[3 * number : 3 * number + 3])


def test_the_loader_of_pytorch_geometric_batches_the_dataset_of_kinoml(
    kinoml: AwkwardArrayGeometricDataset,
) -> None:
    _, rows = records()
    for number, ((batch,), y) in enumerate(GeometricDataLoader(kinoml, batch_size=2)):
        chosen = rows[2 * number : 2 * number + 2]
        assert batch.num_graphs == len(chosen) and torch.equal(y[:, 0], torch.from_numpy(Y[chosen]))
        assert torch.equal(batch.x, torch.from_numpy(np.concatenate([X["x"][row] for row in chosen])))


def test_kinomls_dataset_refuses_records_that_are_no_graphs() -> None:
    with pytest.raises(SpecError, match="the records must have three fields, edge_index, x and y; they have 2"):
        AwkwardArrayGeometricDataset(ak.zip([ak.Array(X["x"]), Y], depth_limit=1))
    swapped = ak.zip([ak.Array(X["x"]), ak.Array(X["edge_index"]), Y], depth_limit=1)
    with pytest.raises(SpecError, match="column '0' contains node numbers"):
        AwkwardArrayGeometricDataset(swapped)


# -- the README


def test_the_readme_runs_and_its_spec_parses() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    exec(compile("".join(blocks), "README.md", "exec"), {})
    (spec,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    from kinoml_data.spec import config

    parsed = kd.DatasetSpec.parse(config.parse(spec.encode(), ".yaml"))
    GraphBatch(parsed)
