"""The collate form `pyg`, which gives PyTorch Geometric's `Batch`, and KinoML's dataset of graphs.

PyTorch and PyTorch Geometric are imported when a dataset uses the form, not with this module: that takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from kinoml_data.errors import SpecError
from kinoml_data.plugin import Array, BatchForm, CompleteSpec
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kinoml_data.plugin import Packed
    from torch import Tensor

NODE_LEVEL = ("x", "pos", "feat", "node_type", "n_id")
"""Columns with one row per node; PyTorch Geometric counts the nodes by them."""

EDGE_LEVEL = ("edge_attr", "edge_weight", "edge_type", "e_id")
"""Columns with one row per edge."""

FIELDS = ("edge_index", "x", "y")
"""What the fields of KinoML's Parquet files of graphs are, in their order."""

_PROPERTIES = ("x", "edge_index", "edge_attr", "edge_weight", "pos", "time", "face", "y")  # that a `Data` may set
Ints: TypeAlias = NDArray[np.int64]


class GraphBatch(BatchForm):
    """`pyg`: the batch is a `torch_geometric.data.Batch`, equal to `Batch.from_data_list` of the single graphs.

    Every column of X is the attribute of its name, and so is y, called `y` where it is one column. How they join:

    - `x`, `pos`, `feat`, `node_type`, `n_id` have a row per node, `edge_attr`, `edge_weight`, `edge_type`, `e_id` a
      row per edge of `edge_index`. There must be one that tells how many nodes a graph has;
    - columns with "index" in their name, and `face`, hold numbers of nodes: they join along their last axis and count
      on from graph to graph;
    - other ragged columns join along their first axis;
    - other fixed columns belong to the graph: they stack.

    Args:
        spec: the spec, with its columns.
        attributes: the attributes that columns become, where they have other names.

    Raises:
        SpecError: a name that means something else to PyTorch Geometric, a shape that does not join as above.
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
                raise SpecError(f"collate: pyg: two columns would be `{attribute}`; rename {column!r}")
            array = spec.columns[column]
            try:
                _check_name(attribute)
                self._axes[attribute] = axis = _axis(attribute, array)
            except SpecError as error:
                raise SpecError(f"collate: pyg: column {column!r} {error}") from None
            self._shapes[attribute] = array.shape[:-1] if axis == -1 else array.shape[1:]
        if not any(name in self._axes for name in NODE_LEVEL):
            raise SpecError(
                "collate: pyg: no column says how many nodes a graph has; name the nodes' features `x`, as in "
                "`x: {stored_as: atoms}`, or their positions `pos`"
            )

    def __call__(self, X: Any, y: Any) -> Any:
        """The `Batch`.

        Raises:
            SpecError: a graph whose columns do not fit together, or with an edge to a node it does not have.
        """
        import torch
        from torch_geometric.data import Batch, Data

        parts = {**_by_column(self.spec.X, X), **_by_column(self.spec.y, y)}
        columns = {attribute: parts[column] for column, attribute in self._attributes.items()}
        flat = {name: _flat(columns[name]) for name, axis in self._axes.items() if axis is not None}
        sizes = {name: shapes[:, self._axes[name] or 0] for name, (_, shapes) in flat.items()}
        nodes = _agreed([name for name in NODE_LEVEL if name in sizes], sizes)
        _agreed([name for name in ("edge_index", *EDGE_LEVEL) if name in sizes], sizes)
        graphs, device = len(nodes), next(iter(flat.values()))[0].device
        starts = _starts(nodes)
        ptr = torch.from_numpy(starts)

        values, slices, offsets = {}, {}, {}
        none = torch.zeros(graphs, dtype=torch.int64)
        for name, axis in self._axes.items():
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
        # What `Batch` takes a batch apart by.
        batch._num_graphs, batch._slice_dict, batch._inc_dict = graphs, slices, offsets
        return batch


def _by_column(names: str | tuple[str, ...] | None, part: Any) -> dict[str, Any]:
    return {} if names is None else {names: part} if isinstance(names, str) else part


def _check_name(attribute: str) -> None:
    from torch_geometric.data import Data

    taken = hasattr(Data, attribute) and attribute not in _PROPERTIES
    if taken or "batch" in attribute or attribute == "ptr" or attribute.startswith("_"):
        raise SpecError("has a name that PyTorch Geometric uses; rename it")


def _axis(attribute: str, array: Array) -> int | None:
    """The axis along which the rows of a column join; None where they stack."""
    shape = array.shape
    if "index" in attribute or attribute == "face":
        edges = attribute == "edge_index"
        if array.numpy.kind not in "iu" or not shape or None in shape[:-1] or (shape[-1] is not None and not edges):
            raise SpecError(
                f"numbers nodes, by its name `{attribute}`: it needs integers whose last axis alone is ragged; "
                "rename it if it is something else"
            )
        if edges and (len(shape) != 2 or shape[0] != 2):
            raise SpecError("needs the shape [2, '*']: from node, to node")
        return -1
    if attribute not in (*NODE_LEVEL, *EDGE_LEVEL) and not array.ragged:
        return None
    if not shape or None in shape[1:]:
        raise SpecError("joins along its first axis: no other may be ragged, and there must be one")
    return 0


def _flat(part: Packed | Tensor) -> tuple[Tensor, Ints]:
    """All values end to end, and the shape of each row."""
    from kinoml_data.plugin import Packed

    if isinstance(part, Packed):
        return part.values, part.shapes.cpu().numpy()
    return part.reshape(-1), np.tile(np.array(part.shape[1:], np.int64), (len(part), 1))


def _agreed(names: list[str], sizes: Mapping[str, Ints]) -> Ints:
    """The sizes of columns that have the same."""
    for other in names[1:]:
        if (wrong := sizes[other] != sizes[names[0]]).any():
            graph = int(wrong.argmax())
            raise SpecError(
                f"graph {graph} of the batch: {names[0]} is for {sizes[names[0]][graph]}, "
                f"{other} for {sizes[other][graph]}"
            )
    return sizes[names[0]] if names else np.empty(0, np.int64)


def _starts(sizes: Ints) -> Ints:
    """Where each begins, and the last one ends."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _node_numbers(name: str, values: Tensor, lengths: Ints, leading: tuple[int, ...], nodes: Ints) -> Tensor:
    """Rows of node numbers, each `(*leading, length)`, joined along their last axis and counted through the batch."""
    import torch

    total, height = int(lengths.sum()), math.prod(leading)
    # Each row is stored as `height` lines one after the other; here each line goes on in the next row.
    first = np.arange(total) + np.repeat(_starts(lengths)[:-1] * (height - 1), lengths)
    lines = np.arange(height)[:, None] * np.repeat(lengths, lengths) + first
    found = values.cpu().numpy()[lines].astype(np.int64, copy=False)
    wrong = (found < 0) | (found >= np.repeat(nodes, lengths))
    if wrong.any():
        line, at = np.argwhere(wrong)[0].tolist()
        graph = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise SpecError(
            f"graph {graph} of the batch: {name} has the node {found[line, at]}, but there are {nodes[graph]}"
        )
    found += np.repeat(_starts(nodes)[:-1], lengths)
    return torch.from_numpy(found.reshape(*leading, total)).to(values.device)
