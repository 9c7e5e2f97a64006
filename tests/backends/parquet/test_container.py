"""Files that are not Parquet, or that are hostile."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.backends.parquet.container import ParquetContainer
from kinoml_data.errors import CorruptStoreError, StoreNotFoundError, UnsafeStoreError, UnsupportedStoreError
from kinoml_data.spec.array import Array


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no file"):
        ParquetAwkward(path=tmp_path / "none.parquet").open(None)


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    for path in (tmp_path, tmp_path / "pipe.parquet"):
        with pytest.raises(StoreNotFoundError, match="not a regular file"):
            ParquetAwkward(path=path).open(None)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 5, b"PK\3\4" + bytes(40), b"PAR1" + b"\xff" * 20 + b"PAR1"])
def test_a_file_that_is_no_parquet_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"x\.parquet"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


def test_every_slice_beyond_the_rows_of_a_damaged_row_group_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "x.parquet")
    file = ParquetContainer(tmp_path / "x.parquet")
    file.groups, file.max_readers = [160], 1
    assert [sum(map(len, file.read(0, ["a"], start, start + 40)["a"])) for start in (0, 40)] == [40, 40]
    for start in (80, 120):
        with pytest.raises(CorruptStoreError, match="lacks rows"):
            file.read(0, ["a"], start, start + 40)
    file.close()


def test_an_encrypted_file_is_not_supported(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PARE" + bytes(20) + b"PARE")
    with pytest.raises(UnsupportedStoreError, match="encrypted"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


def test_a_footer_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.parquet").open("wb") as file:
        file.write(b"PAR1")
        file.truncate(200 << 20)
        file.seek(0, os.SEEK_END)
        file.write((100 << 20).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UnsafeStoreError, match="its footer has"):
        ParquetAwkward(path=tmp_path / "x.parquet").open(None)


class Canary(pa.ExtensionType):
    """An extension type that tells when Arrow builds it from a file."""

    built = False

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.canary")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Canary:
        cls.built = True
        return cls()


@pytest.fixture
def canary() -> Iterator[type[Canary]]:
    pa.register_extension_type(Canary())
    Canary.built = False
    yield Canary
    pa.unregister_extension_type("test.canary")


@pytest.mark.parametrize("depth", ["column", "list", "record"])
def test_an_extension_type_is_never_built_and_refused_if_it_is_asked_for(
    tmp_path: Path, canary: type[Canary], depth: str
) -> None:
    marked = pa.field(
        "odd", pa.int64(), metadata={"ARROW:extension:name": "test.canary", "ARROW:extension:metadata": "x"}
    )
    fields = {
        "column": [pa.field("x", pa.int64()), marked],
        "list": [pa.field("x", pa.int64()), pa.field("odd", pa.list_(marked))],
        "record": [pa.field("", pa.struct([pa.field("x", pa.int64()), marked]))],
    }[depth]
    pq.write_table(pa.schema(fields).empty_table(), tmp_path / "t.parquet")
    pq.read_schema(tmp_path / "t.parquet")
    assert canary.built, "the file does build the type where nobody takes care"
    canary.built = False

    backend = ParquetAwkward(path=tmp_path / "t.parquet")
    assert "column 'odd' has the extension type 'test.canary'" in backend.open(None).unreadable["odd"]
    with pytest.raises(UnsupportedStoreError, match=r"t\.parquet: column 'odd' has the extension type 'test\.canary'"):
        backend.open({"odd": None})
    assert backend.open({"x": Array("int64")}).loaded(["x"]).columns == {"x": Array("int64")}
    assert not canary.built


@pytest.mark.parametrize("last", [True, False])
def test_an_extension_type_in_one_of_two_schemas_is_never_built(
    tmp_path: Path, canary: type[Canary], last: bool
) -> None:
    schemas = [pa.schema([pa.field("x", type_)]) for type_ in (pa.int64(), Canary())]
    first, second = schemas if last else schemas[::-1]
    with pq.ParquetWriter(tmp_path / "t.parquet", first) as writer:
        writer.add_key_value_metadata({"ARROW:schem@": base64.b64encode(second.serialize()).decode()})
    raw = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(raw.replace(b"ARROW:schem@", b"ARROW:schema"))
    canary.built = False

    storage = ParquetAwkward(path=tmp_path / "t.parquet").open(None)
    assert storage.columns.get("x") == Array("int64") or "extension type" in storage.unreadable["x"]
    assert not canary.built
    pq.read_schema(tmp_path / "t.parquet")
    assert canary.built == last, "Arrow itself builds what the last of them says"
