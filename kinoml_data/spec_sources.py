"""From what a caller gives to a spec: a mapping, a spec file, or a data file that a backend opens by its suffix."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinoml_data import registry
from kinoml_data.contracts.backend import Backend
from kinoml_data.errors import SpecError, StoreNotFoundError, one_line, quoted
from kinoml_data.files import os_errors
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import DatasetSpec


def as_spec(spec: Any, base: Path | None = None, backend: str | Backend | None = None) -> DatasetSpec:
    """The spec that `load_dataset` opens for its argument `spec`, before anything is filled in.

    A `backend` that is named opens a data file of any suffix.

    Raises:
        SpecError: `spec` is not valid, or no backend opens the data file.
        StoreNotFoundError: the file does not exist.
        StoreReadError: the operating system could not read the file.
    """
    if isinstance(spec, Backend):
        return DatasetSpec.parse({"storage": {"backend": spec.name}}, base)
    if isinstance(spec, DatasetSpec):
        return spec if base is None else spec.located(base, spec.root)
    if isinstance(spec, Mapping) or _is_omegaconf(spec):
        spec = plain(spec)
        if isinstance(spec, Mapping):
            return DatasetSpec.parse(spec, base)
    if not isinstance(spec, (str, os.PathLike)):
        raise SpecError(f"{quoted(spec)} is not a spec; give a DatasetSpec, a mapping or a path")
    path = config.expanded(spec, base)
    if path.suffix.lower() in config.SUFFIXES:
        from_file = DatasetSpec.from_file(path)
        return from_file if base is None else from_file.located(base)
    full = path if path.is_absolute() else (base or Path.cwd()) / path
    named = backend if isinstance(backend, str) else None
    return DatasetSpec.parse({"storage": {"backend": backend_for_file(full, named), "path": full.name}}, full.parent)


# How to come from a file that no backend opens by its suffix. "{backend}" is a package to install if it is missing.
CSV = """write `load_dataset({path}, backend="csv", delimiter="\\t")`, with the delimiter of the file"""
HDF5, ZARR, LANCE, PARQUET = "hdf5", "zarr", "lance", "parquet-awkward"
BACKEND_OF = {".h5": HDF5, ".hdf5": HDF5, ".h5ad": HDF5, ".nc": HDF5, ".zarr": ZARR, ".lance": LANCE, ".parq": PARQUET}
WAYS = {
    **dict.fromkeys((".txt", ".smi", ".dat"), CSV),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "decompress it first"),
    **dict.fromkeys((".xlsx", ".xls"), "convert it with `pandas.read_excel({path}).to_parquet('data.parquet')`"),
    **dict.fromkeys(
        (".jsonl", ".ndjson"), "convert it with `pandas.read_json({path}, lines=True).to_parquet('data.parquet')`"
    ),
    **dict.fromkeys((".feather", ".arrow"), "read it with `pyarrow.feather.read_table`, and give the table as `data=`"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".pth"), "load it in Python if you trust it, and give the arrays to `from_arrays`"
    ),
    ".npy": "load it with `numpy.load({path})`, and give the array to `from_arrays`",
    ".sdf": "read its molecules with RDKit's `Chem.SDMolSupplier`, and write their SMILES and values to a .csv file",
}


def backend_for_file(path: Path, named: str | None = None) -> str:
    """The name of the backend that opens a data file.

    Args:
        path: the file.
        named: the backend that the caller names, which opens a file of any suffix.

    Raises:
        SpecError: no backend opens files of this suffix, or the path is a folder without Parquet files.
        StoreNotFoundError: the file does not exist.
        StoreReadError: the operating system failed to read the folder.
    """
    suffix = path.suffix.lower()
    if name := registry.backend_for(path.name):
        return name
    if named is not None and "path" in registry.backend(named).model_fields:
        return named
    shown = quoted(str(path))
    if not os.path.lexists(path):
        raise StoreNotFoundError(f"there is no file {shown}")
    with os_errors(path):
        is_folder = path.is_dir()
        names = {inside.name for inside in path.iterdir()} if is_folder else set()
    if not names.isdisjoint({"state.json", "dataset_dict.json"}):
        way = (
            f"write `datasets.load_from_disk({shown}).to_parquet('data.parquet')`, for each split if there are several"
        )
        raise SpecError(f"{shown} is a folder that the package 'datasets' saved; {way}")
    if any(name.endswith(".parquet") for name in names):
        return PARQUET
    way = WAYS.get(suffix, "").format(path=shown)
    if backend := BACKEND_OF.get(suffix):
        installed = backend in registry.list_backends()
        way = (
            f"write `load_dataset({shown}, backend={backend!r})`" if installed else f"pip install kinoml-data-{backend}"
        )
    opened = {s for cls in registry.list_backends().values() for s in cls.suffixes}
    suffixes = ", ".join(sorted(opened | set(config.SUFFIXES)))
    if is_folder and not way:
        raise SpecError(
            f"{shown} is a folder; name a file in it, or the backend that opens folders, such as backend='zarr', or "
            f"backend='lance'; known suffixes: {suffixes}"
        )
    way = way or 'to open it with a certain backend, name it, such as `backend="csv"`'
    raise SpecError(f"no backend opens files that end in {quoted(path.suffix)}; {way}; known suffixes: {suffixes}")


def _is_omegaconf(spec: Any) -> bool:
    omegaconf = sys.modules.get("omegaconf")
    return omegaconf is not None and bool(omegaconf.OmegaConf.is_config(spec))


def plain(spec: Any) -> Any:
    """A spec of mappings, sequences or an OmegaConf config as dicts and lists.

    Raises:
        SpecError: an interpolation of OmegaConf cannot be resolved, a mandatory value is missing, or the spec is nested
            too deep, for example because it contains itself.
    """
    if _is_omegaconf(spec):
        omegaconf: Any = sys.modules["omegaconf"]
        try:
            return omegaconf.OmegaConf.to_container(spec, resolve=True, throw_on_missing=True)
        except omegaconf.errors.OmegaConfBaseException as error:
            raise SpecError(f"the config cannot be resolved: {one_line(error)}") from None
    try:
        if isinstance(spec, Mapping):
            return {key: plain(value) for key, value in spec.items()}
        return [plain(value) for value in spec] if isinstance(spec, (list, tuple)) else spec
    except RecursionError:
        raise SpecError("the spec is nested too deep; does a mapping contain itself?") from None
