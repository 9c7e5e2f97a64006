"""The form `pyg-unique`: each distinct graph of a batch once, and the graph of each row."""

from __future__ import annotations

import pickle
from typing import Any

import kinoml_data as kd
import numpy as np
import pytest
import torch
from kinoml_data.errors import SpecError
from torch.utils.data import DataLoader
from torch_geometric.nn import GCNConv, global_add_pool

from kinoml_data_pyg import UniqueGraphBatch

rng = np.random.default_rng(3)
# Two graphs have the same nodes and other edges; one has no edges, and one no nodes.
ATOMS = [rng.random((n, 4), np.float32) for n in (3, 5, 1, 0)]
ATOMS.append(ATOMS[0])
BONDS = [rng.integers(0, max(n, 1), (2, e)) for n, e in ((3, 4), (5, 6), (1, 0), (0, 0))]
BONDS.append(np.array([[0, 1], [1, 2]]))
GRAPH = [2, 0, 2, 4, 0, 1, 4, 3, 2, 1]
Y = rng.random(len(GRAPH))
FINGERPRINT = rng.integers(0, 2, (len(GRAPH), 6)).astype(bool)
ROWS = [[0, 2, 8], [1, 3, 4, 6, 7, 1], [5], [], list(range(len(GRAPH)))[::-1]]


class WithKeys(kd.Storage):
    """A storage in which the columns of graphs have keys."""

    def __init__(self, storage: kd.Storage, keys: dict[str, Any]) -> None:
        self._storage, self._keys = storage, keys
        self.columns = storage.columns

    def __len__(self) -> int:
        return len(self._storage)

    def read(self, rows: Any, columns: Any) -> Any:
        return self._storage.read(rows, columns)

    def keys(self, column: str) -> Any:
        return self._keys.get(column)


class Keyed(kd.Backend):
    name = "keyed"
    source: kd.AnyBackend
    keys: str

    def open(self, columns: Any) -> kd.Storage:
        graph = np.array(GRAPH)
        nodes = np.where(graph == 4, 0, graph)  # finer keys for the edges than for the nodes
        keys = {"none": {}, "graph": {"x": graph, "edge_index": graph}, "column": {"x": nodes, "edge_index": graph}}
        return WithKeys(self.source.open(columns), keys[self.keys])


def load(keys: str = "none", collate: str = "pyg-unique") -> kd.XyDataset:
    data = {
        "x": [ATOMS[graph] for graph in GRAPH],
        "edge_index": [BONDS[graph] for graph in GRAPH],
        "fingerprint": FINGERPRINT,
        "y": Y,
    }
    spec = kd.from_arrays({name: data[name] for name in list(data)[:3]}, Y).spec.to_mapping()
    backend = Keyed(source=kd.list_backends()["in-memory"](), keys=keys)
    return kd.load_dataset(spec | {"storage": {"backend": "keyed"}}, backend=backend, data=data, collate=collate)


each_keys = pytest.mark.parametrize("keys", ["none", "graph", "column"])


def check(batch: Any, rows: list[int]) -> None:
    """The batch has each graph of these rows once, in the order in which they occur, and everything else per row."""
    distinct = list(dict.fromkeys(GRAPH[row] for row in rows))
    assert (
        batch.num_graphs == len(distinct)
        and batch.ptr.tolist()[1:] == np.cumsum([len(ATOMS[graph]) for graph in distinct]).tolist()
    )
    assert batch.graph_of_row.dtype == torch.int64
    assert [distinct[i] for i in batch.graph_of_row.tolist()] == [GRAPH[row] for row in rows]
    for graph, single in zip(distinct, batch.to_data_list(), strict=True):
        assert sorted(single.keys()) == ["edge_index", "x"]
        assert torch.equal(single.x, torch.from_numpy(ATOMS[graph]))
        assert torch.equal(single.edge_index, torch.from_numpy(BONDS[graph]))
    assert batch.y.numpy().tobytes() == Y[rows].tobytes()
    assert batch.fingerprint.numpy().tobytes() == FINGERPRINT[rows].tobytes() and batch.fingerprint.ndim == 2


@each_keys
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_a_batch_has_each_graph_once_and_names_that_of_each_row(keys: str, rows: list[int]) -> None:
    check(load(keys)[rows], rows)


@each_keys
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_the_form_pyg_repeats_what_rows_share(keys: str, rows: list[int]) -> None:
    batch = load(keys, "pyg")[rows]
    assert batch.num_graphs == len(rows)
    for row, single in zip(rows, batch.to_data_list(), strict=True):
        assert torch.equal(single.x, torch.from_numpy(ATOMS[GRAPH[row]]))
        assert torch.equal(single.edge_index, torch.from_numpy(BONDS[GRAPH[row]]))
        assert single.y.item() == Y[row]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_and_plain_loaders_give_the_same_batches(method: str) -> None:
    ds = load("graph")
    loaders = [
        ds.as_dataloader(batch_size=4, num_workers=1, multiprocessing_context=method, timeout=120),
        DataLoader(ds, batch_size=4),
        [pickle.loads(pickle.dumps(ds))[start : start + 4] for start in (0, 4, 8)],
    ]
    for loader in loaders if method == "fork" else loaders[:1]:
        for number, batch in enumerate(loader):
            check(batch, list(range(4 * number, min(4 * number + 4, len(GRAPH)))))
        assert number == 2


def test_graphs_of_one_size_in_fixed_columns_are_compared_too() -> None:
    x, edges = rng.random((2, 5, 4)), rng.integers(0, 5, (2, 2, 8))
    batch = kd.from_arrays({"x": x[[0, 1, 0]], "edge_index": edges[[0, 0, 0]]}).as_dataloader(
        batch_size=3, collate="pyg-unique"
    )
    (batch,) = batch
    assert batch.graph_of_row.tolist() == [0, 1, 0] and batch.x.tolist() == x.reshape(10, 4).tolist()
    assert batch.edge_index[:, 8:].tolist() == (edges[0] + 5).tolist()


def test_a_network_that_encodes_each_graph_once_predicts_the_same() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = GCNConv(4, 8)
    rows = ROWS[1]

    def encode(batch: Any) -> torch.Tensor:
        pooled: torch.Tensor = global_add_pool(layer(batch.x, batch.edge_index), batch.batch, batch.num_graphs)
        return pooled

    once, repeated = load("graph")[rows], load("graph", "pyg")[rows]
    assert len(once.x) < len(repeated.x)
    torch.testing.assert_close(encode(once)[once.graph_of_row], encode(repeated))


def test_changing_a_batch_changes_no_later_one() -> None:
    ds = load("graph")
    batch = ds[:]
    for name in ("x", "edge_index", "y", "graph_of_row"):
        batch[name].zero_()
    check(ds[:], list(range(len(GRAPH))))


def test_a_column_with_the_name_of_the_index_is_refused() -> None:
    spec = kd.from_arrays({"x": ATOMS, "graph_of_row": np.arange(len(ATOMS))}).spec
    with pytest.raises(SpecError, match="pyg-unique: a column would become `graph_of_row`; rename it"):
        UniqueGraphBatch(spec)
