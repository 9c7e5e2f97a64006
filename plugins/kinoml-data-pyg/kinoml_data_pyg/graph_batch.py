"""The collate forms `pyg` and `pyg-unique`, which make PyTorch Geometric's `Batch`.

PyTorch and PyTorch Geometric are imported when a dataset uses the form, not when this module is imported, because that
takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from kinoml_data.errors import SpecError
from kinoml_data.plugin import Array, BatchForm, CompleteSpec, Ragged, keys_by_content
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kinoml_data.plugin import Packed
    from torch import Tensor

NODE_LEVEL = ("x", "pos", "feat", "node_type", "n_id")
"""Columns with one row per node; PyTorch Geometric counts the nodes by them."""

EDGE_LEVEL = ("edge_attr", "edge_weight", "edge_type", "e_id")
"""Columns with one row per edge."""

FIELDS = ("edge_index", "x", "y")
"""The attributes that the fields of KinoML's Parquet files of graphs become, in their order."""

GRAPH_OF_ROW = "graph_of_row"
"""The attribute of `pyg-unique` that tells the graph of each row of a batch."""

_PROPERTIES = ("x", "edge_index", "edge_attr", "edge_weight", "pos", "time", "face", "y")  # that a `Data` may set
Ints: TypeAlias = NDArray[np.int64]


class GraphBatch(BatchForm):
    """`pyg`: a batch is a `torch_geometric.data.Batch`, equal to `Batch.from_data_list` of the single graphs.

    Each column of X and y becomes the attribute of the same name; a single y becomes `y`. They are joined as follows:

    - `x`, `pos`, `feat`, `node_type` and `n_id` have one row per node; `edge_attr`, `edge_weight`, `edge_type` and
      `e_id` have one row per edge of `edge_index`. At least one of the former is required to know the number of nodes.
    - Columns with "index" in their name, and `face`, contain node numbers. They are joined along their last axis, and
      the number of nodes in all earlier graphs is added to them.
    - Other ragged columns are joined along their first axis.
    - Other fixed columns are stacked, with one row per graph.

    Args:
        spec: a complete spec.
        attributes: the attribute for each column that does not become the attribute of the same name.

    Raises:
        SpecError: PyTorch Geometric uses the name of a column itself, or a column has a shape that cannot be joined as
            described above.
    """

    name = "pyg"

    def __init__(self, spec: CompleteSpec, attributes: Mapping[str, str] | None = None) -> None:
        super().__init__(spec)
        named = {name: name for name in (*spec.X_names, *spec.y_names)}
        named |= {spec.y: "y"} if isinstance(spec.y, str) else {}
        self._attributes = named | dict(attributes or {})
        self._axes: dict[str, int | None] = {}
        self._shapes: dict[str, tuple[Any, ...]] = {}  # of one row, without the axis along which rows join
        for column, attribute in self._attributes.items():
            if attribute in self._axes:
                raise SpecError(f"collate: pyg: two columns would become `{attribute}`; rename {column!r}")
            array = spec.columns[column]
            try:
                _check_name(attribute)
                self._axes[attribute] = axis = _axis(attribute, array)
            except SpecError as error:
                raise SpecError(f"collate: pyg: column {column!r} {error}") from None
            self._shapes[attribute] = array.shape[:-1] if axis == -1 else array.shape[1:]
        if not any(name in self._axes for name in NODE_LEVEL):
            raise SpecError(
                "collate: pyg: no column has one row per node; name the features of the nodes `x`, as in "
                "`x: {stored_as: atoms}`, or their positions `pos`"
            )

    def __call__(self, X: Any, y: Any) -> Any:
        """Make the `Batch` from X and y.

        Raises:
            SpecError: the columns of a graph do not fit together, or an edge refers to a node that does not exist.
        """
        return self._batch(self._by_attribute(X, y))

    def _by_attribute(self, X: Any, y: Any) -> dict[str, Any]:
        parts = {**_by_column(self.spec.X, X), **_by_column(self.spec.y, y)}
        return {attribute: parts[column] for column, attribute in self._attributes.items()}

    def _batch(self, columns: Mapping[str, Any]) -> Any:
        """The `Batch` of some columns by attribute, each with one row per graph."""
        import torch
        from torch_geometric.data import Batch, Data

        axes = {name: self._axes[name] for name in columns}
        flat = {name: _flat(columns[name]) for name, axis in axes.items() if axis is not None}
        sizes = {name: shapes[:, axes[name] or 0] for name, (_, shapes) in flat.items()}
        nodes = _agreed([name for name in NODE_LEVEL if name in sizes], sizes)
        _agreed([name for name in ("edge_index", *EDGE_LEVEL) if name in sizes], sizes)
        graphs, device = len(nodes), next(iter(flat.values()))[0].device
        starts = _starts(nodes)
        ptr = torch.from_numpy(starts)

        values, slices, offsets = {}, {}, {}
        none = torch.zeros(graphs, dtype=torch.int64)
        for name, axis in axes.items():
            offsets[name] = none
            if axis is None:
                values[name], slices[name] = columns[name], torch.arange(graphs + 1)
                continue
            slices[name] = torch.from_numpy(_starts(sizes[name]))
            if axis == 0:
                values[name] = flat[name][0].reshape(int(sizes[name].sum()), *self._shapes[name])
            else:
                values[name] = _node_numbers(name, flat[name][0], sizes[name], self._shapes[name], nodes)
                offsets[name] = ptr[:-1]

        batch = Batch(_base_cls=Data, **values)
        batch.batch = torch.from_numpy(np.repeat(np.arange(graphs), nodes)).to(device)
        batch.ptr = ptr.to(device)
        # `Batch` needs these to return the single graphs.
        batch._num_graphs, batch._slice_dict, batch._inc_dict = graphs, slices, offsets
        return batch


class UniqueGraphBatch(GraphBatch):
    """`pyg-unique`: the `Batch` of the distinct graphs of a batch, so that a model encodes each of them once.

    A graph consists of the columns that have one row per node or per edge, or that contain node numbers, and of other
    ragged columns; they are joined as in `pyg`. The graphs are in the order in which they occur first. Other fixed
    columns, such as y, are stacked with one row per row of the batch. `graph_of_row` is int64 `(rows,)`: for each row
    of the batch, the number of its graph.

    The arguments and errors are those of `GraphBatch`.
    """

    name = "pyg-unique"

    def __init__(self, spec: CompleteSpec, attributes: Mapping[str, str] | None = None) -> None:
        super().__init__(spec, attributes)
        if GRAPH_OF_ROW in self._axes:
            raise SpecError(f"collate: pyg-unique: a column would become `{GRAPH_OF_ROW}`; rename it")
        self.unique = [name for name, attribute in self._attributes.items() if self._axes[attribute] is not None]

    def __call__(self, X: Any, y: Any) -> Any:
        """Make the `Batch` from X and y; raises the errors of `GraphBatch`."""
        import torch

        columns = self._by_attribute(X, y)
        graphs = {name: columns.pop(name) for name, axis in self._axes.items() if axis is not None}
        indices = np.stack([unique.index.cpu().numpy() for unique in graphs.values()], axis=1)
        graph_of_row = keys_by_content(indices)  # two graphs may have the same nodes and other edges
        first = np.unique(graph_of_row, return_index=True)[1]
        batch = self._batch(
            {name: _taken(unique.values, indices[first, i]) for i, (name, unique) in enumerate(graphs.items())}
        )
        for name, values in columns.items():
            batch[name] = values
        batch[GRAPH_OF_ROW] = torch.from_numpy(graph_of_row).to(batch.batch.device)
        return batch


def _taken(values: Packed | Tensor, rows: Ints) -> Packed | Tensor:
    """The given rows; the same object if these are all rows in their order."""
    import torch
    from kinoml_data.plugin import Packed

    tensor = values.values if isinstance(values, Packed) else values
    count = len(values.shapes) if isinstance(values, Packed) else len(values)
    if np.array_equal(rows, np.arange(count)):
        return values
    if not isinstance(values, Packed):
        return torch.from_numpy(tensor.cpu().numpy()[rows]).to(tensor.device)
    taken = Ragged(tensor.cpu().numpy(), values.shapes.cpu().numpy()).take(rows)
    return Packed(*(torch.from_numpy(part).to(tensor.device) for part in (taken.values, taken.offsets, taken.shapes)))


def _by_column(names: str | tuple[str, ...] | None, part: Any) -> dict[str, Any]:
    return {} if names is None else {names: part} if isinstance(names, str) else part


def _check_name(attribute: str) -> None:
    from torch_geometric.data import Data

    taken = hasattr(Data, attribute) and attribute not in _PROPERTIES
    if taken or "batch" in attribute or attribute == "ptr" or attribute.startswith("_"):
        raise SpecError("has a name that PyTorch Geometric uses itself; rename it")


def _axis(attribute: str, array: Array) -> int | None:
    """The axis along which the rows of a column are joined; None if they are stacked."""
    shape = array.shape
    if "index" in attribute or attribute == "face":
        edges = attribute == "edge_index"
        if array.numpy.kind not in "iu" or not shape or None in shape[:-1] or (shape[-1] is not None and not edges):
            raise SpecError(
                f"contains node numbers, according to its name `{attribute}`, so it must have integers with only the "
                "last axis ragged; rename it if it contains something else"
            )
        if edges and (len(shape) != 2 or shape[0] != 2):
            raise SpecError("must have the shape [2, '*']: the first and the second node of each edge")
        return -1
    if attribute not in (*NODE_LEVEL, *EDGE_LEVEL) and not array.ragged:
        return None
    if not shape or None in shape[1:]:
        raise SpecError("is joined along its first axis, so it needs at least one axis, and no other may be ragged")
    return 0


def _flat(part: Packed | Tensor) -> tuple[Tensor, Ints]:
    """The values of all rows, end to end, and the shape of each row."""
    from kinoml_data.plugin import Packed

    if isinstance(part, Packed):
        return part.values, part.shapes.cpu().numpy()
    return part.reshape(-1), np.tile(np.array(part.shape[1:], np.int64), (len(part), 1))


def _agreed(names: list[str], sizes: Mapping[str, Ints]) -> Ints:
    """The sizes of the rows of these columns, which must be the same in all of them."""
    for other in names[1:]:
        if (wrong := sizes[other] != sizes[names[0]]).any():
            graph = int(wrong.argmax())
            raise SpecError(
                f"graph {graph} of the batch: {names[0]} has {sizes[names[0]][graph]} entries, "
                f"but {other} has {sizes[other][graph]}"
            )
    return sizes[names[0]] if names else np.empty(0, np.int64)


def _starts(sizes: Ints) -> Ints:
    """Where each row begins, and where the last one ends."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _node_numbers(name: str, values: Tensor, lengths: Ints, leading: tuple[int, ...], nodes: Ints) -> Tensor:
    """Rows of node numbers `(*leading, length)`, joined along the last axis and offset by the nodes before each row."""
    import torch

    total, height = int(lengths.sum()), math.prod(leading)
    # Each row is stored as `height` lines, one after the other. In the batch, each line continues with the next row.
    first = np.arange(total) + np.repeat(_starts(lengths)[:-1] * (height - 1), lengths)
    lines = np.arange(height)[:, None] * np.repeat(lengths, lengths) + first
    numbers = values.cpu().numpy()[lines].astype(np.int64, copy=False)
    wrong = (numbers < 0) | (numbers >= np.repeat(nodes, lengths))
    if wrong.any():
        line, at = np.argwhere(wrong)[0].tolist()
        graph = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise SpecError(
            f"graph {graph} of the batch: {name} refers to node {numbers[line, at]}, "
            f"but the graph has {nodes[graph]} nodes"
        )
    numbers += np.repeat(_starts(nodes)[:-1], lengths)
    return torch.from_numpy(numbers.reshape(*leading, total)).to(values.device)
