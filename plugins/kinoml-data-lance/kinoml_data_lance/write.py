"""Writing: a new Lance dataset, or the next version of one that is there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kinoml_data import Array
from kinoml_data.backends.parquet import writer as parquet_write
from kinoml_data.backends.parquet.layout import DIGEST
from kinoml_data.columns import Columns
from kinoml_data.errors import StoreExistsError, StoreWriteError, quoted
from kinoml_data.layouts.flat_arrays import CRC
from numpy.typing import NDArray

from kinoml_data_lance.dataset import FILES, ROWS, colon, digest, files_of, lance_errors, lance_here, numbered, tail


def write_dataset(
    path: Path,
    columns: Mapping[str, Array],
    batches: Iterable[Columns],
    *,
    arrays: Mapping[str, NDArray[Any]],
    spec: str | None,
    overwrite: bool,
) -> None:
    """Write a dataset to the folder `path`, or with `overwrite` the next version of the one there.

    Raises:
        StoreExistsError: the folder exists without `overwrite`, or is no Lance dataset.
        StoreWriteError: it cannot be written; what was there is as it was.
        SpecError: a batch does not hold what `columns` says.
        UnsupportedStoreError: a dtype that is not stored bit for bit.
    """
    schema = parquet_write.schema_of(columns, "lance")
    metadata = parquet_write.metadata_of(columns, arrays, spec, "lance")
    # A symbolic link stays one: what it points to is replaced.
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    exists = os.path.lexists(final)
    if exists and not overwrite:
        raise StoreExistsError(
            f"{quoted(str(final))} exists; pass overwrite=True (--overwrite on the command line) to replace it"
        )
    if exists and not (final / "_versions").is_dir():
        raise StoreExistsError(f"{quoted(str(final))} exists and is no Lance dataset; move it away first")
    if not final.parent.is_dir():
        raise StoreWriteError(f"there is no folder {quoted(str(final.parent))}")
    temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        operation = _write_rows(temporary, columns, batches, schema, metadata)
        with lance_errors(f"cannot write {quoted(str(final))}", StoreWriteError):
            (_add_version if exists else _move)(temporary, final, operation)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(
    folder: Path, columns: Mapping[str, Array], batches: Iterable[Columns], schema: Any, metadata: Mapping[str, str]
) -> Any:
    """Write the rows of `batches` into a new folder; gives the operation that makes a version of them."""
    lance = lance_here()
    stored = pa.schema([field.with_name(colon(field.name)) for field in schema])
    failed: list[BaseException] = []

    def parts() -> Iterator[Any]:
        first = 0
        try:
            for data in parquet_write.row_groups(columns, batches):
                table = parquet_write.table_of(columns, data, schema).rename_columns(stored.names)
                rows = np.arange(first, first + len(table))
                for at, name in enumerate(stored.names):
                    if name.endswith(colon(CRC)):
                        crcs = numbered(table.column(at).to_numpy(), rows)
                        table = table.set_column(at, stored.field(at), pa.array(crcs))
                yield from table.to_batches()
                first += len(table)
        except BaseException as error:  # kept, Ctrl-C too: Lance makes an error of its own of it
            if not isinstance(error, GeneratorExit):
                failed.append(error)
            raise

    try:
        with lance_errors(f"cannot write {quoted(str(folder))}", StoreWriteError):
            reader = pa.RecordBatchReader.from_batches(stored, parts())
            fragments = lance.fragment.write_fragments(reader, str(folder), mode="create")
    except StoreWriteError:
        if failed:  # Lance has made an error of its own of it
            raise failed[0] from None
        raise
    said = {**metadata, ROWS: str(sum(fragment.physical_rows for fragment in fragments))}
    said[FILES] = json.dumps({path.name: tail(path) for path in sorted(folder.glob("data/*"))})
    said[DIGEST] = digest(said)
    return lance.LanceOperation.Overwrite(stored.with_metadata(said), fragments)


def _move(temporary: Path, final: Path, operation: Any) -> None:
    """Make a dataset of the rows in `temporary`, and that the new dataset `final`."""
    import lance

    lance.LanceDataset.commit(str(temporary), operation)
    _sync(temporary)
    try:
        temporary.rename(final)
    except OSError:
        if os.path.lexists(final):
            raise StoreExistsError(f"{quoted(str(final))} appeared while it was being written") from None
        raise
    _sync(final.parent, deep=False)


def _add_version(temporary: Path, final: Path, operation: Any) -> None:
    """Make the rows in `temporary` the next version of the dataset `final`."""
    import lance

    _sync(temporary)
    moved = []
    try:
        (final / "data").mkdir(exist_ok=True)
        for file in temporary.glob("data/*"):
            moved.append(file.rename(final / "data" / file.name))  # Lance gives each file a name of its own
        _sync(final / "data", deep=False)
        lance.LanceDataset.commit(str(final), operation)
    except Exception:  # whatever it was: what no version uses is not left behind
        used = files_of(lance.dataset(str(final)))
        for path in moved:
            if path.name not in used:
                path.unlink(missing_ok=True)
        raise
    _sync(final / "_versions")


def _sync(folder: Path, *, deep: bool = True) -> None:
    """Flush a folder to disk, with all that is in it or alone."""
    for path in [*(folder.rglob("*") if deep else ()), *([folder] if folder.exists() else ())]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
