"""Every name that the author of a plugin needs, in one module.

A plugin imports from `kinoml_data`, `kinoml_data.plugin`, `kinoml_data.errors`, `kinoml_data.testing` and
`kinoml_data.torch_datasets`. All other modules are private and may change in any release. Importing this module imports
neither torch nor pyarrow; the names that need them are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# How columns travel: numpy arrays `(rows, *shape)`, or a `Ragged` for rows of different shapes and for strings.
from kinoml_data.columns import Column, Columns, Indexed, Ragged, gather, keys_by_content

# The contracts, and the fields that a backend's options may have.
from kinoml_data.contracts.backend import AnyBackend, Backend, DataPath, Storage
from kinoml_data.contracts.batch_form import BatchForm
from kinoml_data.contracts.blocks import Blocks
from kinoml_data.contracts.drawing import Drawing
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.contracts.hookspecs import hookimpl
from kinoml_data.contracts.observation_model import ObservationModel
from kinoml_data.contracts.y_columns import Condition

# Files: reads at given positions, and writing to a temporary file that replaces the old one at the end.
from kinoml_data.files import PositionedFile, replacing

# Flat arrays with a checksum for each row, for backends over containers of arrays, such as HDF5 and Zarr.
from kinoml_data.layouts.checked_arrays import CheckedArrayStorage, check_names, own_arrays, rows_of, write_rows

# Flat arrays: values end to end plus shapes. The constants are the suffixes of the arrays' names, and the spec's name.
from kinoml_data.layouts.flat_arrays import (
    CRC,
    INDEX,
    SHAPES,
    SPEC_KEY,
    UTF8,
    VALUES,
    ArrayStorage,
    DecodedColumn,
    is_reserved,
    mismatch,
    to_native_order,
)
from kinoml_data.layouts.flat_writing import flat_arrays

# Columns that other programs stored in a container of arrays, and which of them can be read.
from kinoml_data.layouts.foreign_arrays import (
    WholeColumn,
    column_of,
    foreign_arrays,
    group_problem,
    missing_groups,
    refuse_scaling,
    scaled_column,
    strings_of,
)

# What a dataset is: its spec, the type of a column, and the base class of options. `STRING` is the dtype "str".
from kinoml_data.spec.array import DTYPES, STRING, Array, Model
from kinoml_data.spec.dataset_spec import CompleteSpec, DatasetSpec

if TYPE_CHECKING:
    # Batches of tensors, and the indices that `dataset[...]` accepts.
    from kinoml_data.dataset.collate import Collater
    from kinoml_data.dataset.dataset import XyDataset
    from kinoml_data.dataset.forms import Packed, PadMask, Unique
    from kinoml_data.dataset.indexing import normalize_index

    # Columns in Arrow arrays, and the library's own layout of rows in Arrow tables, with a checksum for each row.
    from kinoml_data.layouts.arrow import arrow_array, arrow_column, select_columns
    from kinoml_data.layouts.arrow_rows import ArrowLayout

# The names above that need torch or pyarrow, and the module that defines each.
_LAZY = {
    "Collater": "dataset.collate",
    "Packed": "dataset.forms",
    "PadMask": "dataset.forms",
    "Unique": "dataset.forms",
    "XyDataset": "dataset.dataset",
    "normalize_index": "dataset.indexing",
    "ArrowLayout": "layouts.arrow_rows",
    "arrow_array": "layouts.arrow",
    "arrow_column": "layouts.arrow",
    "select_columns": "layouts.arrow",
}

__all__ = ["Column", "Columns", "Indexed", "Ragged", "gather", "keys_by_content"]
__all__ += [
    "AnyBackend",
    "Backend",
    "BatchForm",
    "Blocks",
    "Condition",
    "DataPath",
    "Drawing",
    "Featurizer",
    "ObservationModel",
    "Storage",
]
__all__ += ["hookimpl"]
__all__ += ["PositionedFile", "replacing"]
__all__ += ["CheckedArrayStorage", "check_names", "own_arrays", "rows_of", "write_rows"]
__all__ += ["CRC", "INDEX", "SHAPES", "SPEC_KEY", "UTF8", "VALUES"]
__all__ += ["ArrayStorage", "DecodedColumn", "flat_arrays", "is_reserved", "mismatch", "to_native_order"]
__all__ += [
    "WholeColumn",
    "column_of",
    "foreign_arrays",
    "group_problem",
    "missing_groups",
    "refuse_scaling",
    "scaled_column",
    "strings_of",
]
__all__ += ["DTYPES", "STRING", "Array", "CompleteSpec", "DatasetSpec", "Model"]
__all__ += ["Collater", "Packed", "PadMask", "Unique", "XyDataset", "normalize_index"]
__all__ += ["ArrowLayout", "arrow_array", "arrow_column", "select_columns"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kinoml_data.plugin' has no attribute {name!r}")
    value = getattr(import_module(f"kinoml_data.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
