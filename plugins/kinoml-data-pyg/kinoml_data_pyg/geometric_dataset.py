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

    `ds[i]` is `([Data], y)`, and `ds[many]` is `([Data, ...], y)`. `as_dataloader` gives a `Batch` with y in it, made
    at once; PyTorch Geometric's own `DataLoader` works as well.

    Args:
        data: an `awkward.Array` of such records.
    """

    def _use(self, core: XyDataset) -> None:
        columns = (*core.spec.X_names, *core.spec.y_names)
        if len(columns) != len(FIELDS):
            raise SpecError(f"graphs have three fields, edge_index, x and y; there are {len(columns)}")
        form = GraphBatch(core.spec, dict(zip(columns, FIELDS, strict=True)))
        self.core = core.with_collater(Collater(core.spec, form))

    def __getitem__(self, index: Any) -> tuple[list[Any], Tensor]:
        chosen, _ = normalize_index(index, len(self))
        batch = self.core[chosen]
        y = batch.y
        del batch.y
        return batch.to_data_list(), y

    __getitems__ = None  # type: ignore[assignment]  # loaders of others get samples as KinoML's were

    def __iter__(self) -> NoReturn:
        raise NotImplementedError("iterate over as_dataloader(), or by index")

    def as_dataloader(self, **kwargs: Any) -> DataLoader[Any]:
        """As `XyDataset.as_dataloader`."""
        return self.core.as_dataloader(**kwargs)

    def __repr__(self) -> str:
        return f"<AwkwardArrayGeometricDataset over {self.core!r}>"
