"""Several datasets from one spec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kinoml_data.dataset.dataset import XyDataset
from kinoml_data.errors import SpecError, StoreNotFoundError, error_prefix, quoted
from kinoml_data.factory import load_dataset
from kinoml_data.files import matches
from kinoml_data.spec import config
from kinoml_data.spec.dataset_spec import DatasetSpec
from kinoml_data.spec_sources import backend_for_file, plain


def load_datasets(
    specs: Mapping[str, Any] | str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, XyDataset]:
    """Open several datasets that one spec describes.

    Args:
        specs: a mapping, or a .yaml, .json or .toml file, with the key `datasets`: specs by name, or a glob of data
            files, each of which becomes a dataset with the name of the file without its suffix. The keys next to
            `datasets` are defaults for every dataset; a dataset that sets a key replaces the default. Only the options
            of a `storage` without `backend` are merged with the default.
        base: the folder that relative paths in a mapping start from; by default the working directory.
        options: arguments of `load_dataset`, used for every dataset.

    Returns:
        The datasets by name: in the order of the mapping, or in the order of the names for a glob.

    Raises:
        StoreNotFoundError: no file matches the glob.
        SpecError: there is no key `datasets`, or it is not valid.
        KinomlDataError: whatever `load_dataset` raises for a dataset; the message begins with `datasets.<name>`.
    """
    datasets: dict[str, XyDataset] = {}
    try:
        for name, spec in specs_by_name(specs, None if base is None else Path(base)).items():
            with error_prefix(f"datasets.{name}: "):
                datasets[name] = load_dataset(spec(), **options)
    except BaseException:
        for dataset in datasets.values():
            dataset.close()
        raise
    return datasets


def specs_by_name(specs: Any, base: Path | None = None) -> dict[str, Callable[[], DatasetSpec]]:
    """For each dataset that `load_datasets` would open, a function that makes its spec; raises the errors of it."""
    where = ""
    if isinstance(specs, (str, os.PathLike)):
        path = config.expanded(specs)
        if path.suffix.lower() not in config.SUFFIXES:
            raise SpecError(
                f"{quoted(str(path))} is not a spec file; give one with the key 'datasets', or {{'datasets': a glob}}; "
                "to open one data file, use load_dataset"
            )
        specs, base, where = config.read(path), path.resolve().parent if base is None else base, f"{path}: "
    with error_prefix(where):
        return _several_of_mapping(plain(specs), base or Path.cwd())


def _several_of_mapping(specs: Any, folder: Path) -> dict[str, Callable[[], DatasetSpec]]:
    if not isinstance(specs, Mapping) or "datasets" not in specs:
        raise SpecError("the key 'datasets' is missing; to open one dataset, use load_dataset")
    defaults, datasets = {key: value for key, value in specs.items() if key != "datasets"}, specs["datasets"]
    if not isinstance(defaults.get("storage", {}), Mapping):
        raise SpecError(f"storage: {quoted(defaults['storage'])} is not a mapping of options")
    if isinstance(datasets, str):
        datasets = {name: {"storage": {"path": path}} for name, path in _matches(datasets, folder)}
    if not isinstance(datasets, Mapping) or not datasets or not all(isinstance(d, Mapping) for d in datasets.values()):
        raise SpecError(f"datasets: {quoted(datasets)} is neither a mapping of names to specs nor a glob")
    if wrong := [name for name in datasets if not isinstance(name, str)]:
        raise SpecError(f"datasets: the name {quoted(wrong[0])} is not a string")
    return {name: partial(_one_of_several, defaults, spec_dict, folder) for name, spec_dict in datasets.items()}


def _matches(pattern: str, folder: Path) -> list[tuple[str, str]]:
    """The stem and the path of each file that matches a glob, sorted by stem."""
    paths = matches(config.expanded(pattern, folder), folder)
    if not paths:
        raise StoreNotFoundError(f"no file matches {quoted(pattern)} in {quoted(str(folder))}")
    by_stem: dict[str, str] = {}
    for path in paths:
        if (first := by_stem.setdefault(Path(path).stem, path)) != path:
            raise SpecError(f"datasets: {quoted(first)} and {quoted(path)} would have the same name")
    return sorted(by_stem.items())


def _one_of_several(defaults: Mapping[str, Any], spec_dict: Mapping[str, Any], folder: Path) -> DatasetSpec:
    merged = {**defaults, **spec_dict}
    storage = merged.get("storage")
    if isinstance(storage, Mapping) and "backend" not in storage:
        storage = {**defaults.get("storage", {}), **storage}
        path = storage.get("path")
        merged["storage"] = {"backend": backend_for_file(Path(path)), **storage} if isinstance(path, str) else storage
    return DatasetSpec.parse(merged, folder)
