"""KinoML's dataset of graphs."""

from __future__ import annotations

from typing import Any, NoReturn

from kinoml_data.errors import SpecError
from kinoml_data.plugin import Collater, XyDataset, normalize_index
from kinoml_data.torch_datasets import AwkwardArrayDataset
from torch import Tensor
from torch.utils.data import DataLoader

from kinoml_data_pyg.graph_batch import FIELDS, GraphBatch


class AwkwardArrayGeometricDataset(AwkwardArrayDataset):
    """KinoML's dataset of graphs: records with three fields, `edge_index`, `x` and y, in this order.

    `ds[i]` is `([Data], y)`, and an index of several rows returns `([Data, ...], y)`. The batches of `as_dataloader`
    contain y. PyTorch Geometric's own `DataLoader` works as well.

    Args:
        data: an `awkward.Array` of such records.

    Raises:
        SpecError: the records do not have three fields.
    """

    def _use(self, core: XyDataset) -> None:
        columns = (*core.spec.X_names, *core.spec.y_names)
        if len(columns) != len(FIELDS):
            raise SpecError(f"the records must have three fields, edge_index, x and y; they have {len(columns)}")
        form = GraphBatch(core.spec, dict(zip(columns, FIELDS, strict=True)))
        self.core = core.with_collater(Collater(core.spec, form))

    def __getitem__(self, index: Any) -> tuple[list[Any], Tensor]:
        positions, _ = normalize_index(index, len(self))
        batch = self.core[positions]
        y = batch.y
        del batch.y
        return batch.to_data_list(), y

    __getitems__ = None  # type: ignore[assignment]  # other loaders get single samples, as from KinoML

    def __iter__(self) -> NoReturn:
        raise NotImplementedError("this dataset has no iterator; iterate over `as_dataloader()` or over indices")

    def as_dataloader(self, **kwargs: Any) -> DataLoader[Any]:
        """The same as `XyDataset.as_dataloader`."""
        return self.core.as_dataloader(**kwargs)

    def __repr__(self) -> str:
        return f"<AwkwardArrayGeometricDataset over {self.core!r}>"
