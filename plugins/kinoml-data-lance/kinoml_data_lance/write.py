"""Writing: a new Lance dataset, or the next version of an existing one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from kinoml_data.errors import StoreExistsError, StoreWriteError, quoted
from kinoml_data.plugin import ArrowLayout, Columns, Storage

from kinoml_data_lance.dataset import FILES, ROWS, file_digest, file_names, import_lance, lance_errors
from kinoml_data_lance.read import LanceStorage


def write_dataset(
    path: Path,
    layout: ArrowLayout,
    batches: Iterable[Columns],
    *,
    overwrite: bool,
    check: Callable[[Storage], object] | None,
) -> None:
    """Write a dataset to the folder `path`, or with `overwrite` the next version of the dataset there.

    The rows are first written to a temporary folder next to `path`, which is passed to `check` as a separate dataset.

    Raises:
        StoreExistsError: the folder exists and `overwrite` is False, or it is not a Lance dataset.
        StoreWriteError: the dataset cannot be written; the old dataset is unchanged.
        SpecError: a batch does not match the layout, or the name of a column is not valid.
        UnsupportedStoreError: a dtype is not supported, or the arrays and the spec are too large.
    """
    layout.schema(), layout.metadata()  # raises before a file is created if something cannot be stored
    # A symbolic link stays a link: what it points to is replaced.
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    exists = os.path.lexists(final)
    if exists and not overwrite:
        raise StoreExistsError(
            f"{quoted(str(final))} already exists; pass overwrite=True (--overwrite on the command line) to replace it"
        )
    if exists and not (final / "_versions").is_dir():
        raise StoreExistsError(f"{quoted(str(final))} exists and is not a Lance dataset; move it away first")
    if not final.parent.is_dir():
        raise StoreWriteError(f"there is no folder {quoted(str(final.parent))}; create it first")
    temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        operation = _write_rows(temporary, layout, batches)
        lance = import_lance()
        with lance_errors(f"cannot write {quoted(str(final))}", StoreWriteError):
            written = lance.LanceDataset.commit(str(temporary), operation)
        if check is not None:
            with LanceStorage(written, str(final), None, folder=temporary) as storage:
                check(storage)
        with lance_errors(f"cannot write {quoted(str(final))}", StoreWriteError):
            _sync(temporary)
            if not exists:
                try:
                    _rename_new(temporary, final)
                except StoreExistsError:  # another program has written a dataset meanwhile
                    exists = overwrite and (final / "_versions").is_dir()
                    if not exists:
                        raise
            if exists:
                _add_version(temporary, final, operation)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(folder: Path, layout: ArrowLayout, batches: Iterable[Columns]) -> Any:
    """Write the rows of `batches` into a new folder; returns the operation that makes a version of them."""
    lance, schema = import_lance(), layout.schema()
    failed: list[BaseException] = []

    def record_batches() -> Iterator[Any]:
        try:
            for table in layout.tables(batches):
                yield from table.to_batches()
        except BaseException as error:  # Lance replaces it, even Ctrl-C, by an error of its own
            if not isinstance(error, GeneratorExit):
                failed.append(error)
            raise

    try:
        with lance_errors(f"cannot write {quoted(str(folder))}", StoreWriteError):
            reader = pa.RecordBatchReader.from_batches(schema, record_batches())
            fragments = lance.fragment.write_fragments(reader, str(folder), mode="create")
    except StoreWriteError:
        if failed:
            raise failed[0] from None
        raise
    rows = sum(fragment.physical_rows for fragment in fragments)
    files = {path.name: file_digest(path) for path in sorted(folder.glob("data/*"))}
    metadata = layout.metadata({ROWS: str(rows), FILES: json.dumps(files)})
    return lance.LanceOperation.Overwrite(schema.with_metadata(metadata), fragments)


def _rename_new(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError:
        if os.path.lexists(final):
            raise StoreExistsError(
                f"{quoted(str(final))} appeared while this store was being written; it was not replaced"
            ) from None
        raise
    _sync(final.parent, deep=False)


def _add_version(temporary: Path, final: Path, operation: Any) -> None:
    """Make the rows in `temporary` the next version of the dataset `final`."""
    lance, moved = import_lance(), []
    try:
        (final / "data").mkdir(exist_ok=True)
        for file in temporary.glob("data/*"):
            moved.append(file.rename(final / "data" / file.name))  # Lance gives each file a unique name
        _sync(final / "data", deep=False)
        lance.LanceDataset.commit(str(final), operation)
    except Exception:  # files that no version uses must not be left behind
        used = file_names(lance.dataset(str(final)))
        for path in moved:
            if path.name not in used:
                path.unlink(missing_ok=True)
        raise
    _sync(final / "_versions")


def _sync(folder: Path, *, deep: bool = True) -> None:
    """Flush a folder to disk, with everything in it if `deep` is True."""
    for path in [*(folder.rglob("*") if deep else ()), *([folder] if folder.exists() else ())]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
