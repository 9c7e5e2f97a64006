"""At a URL: in fsspec's memory, and over HTTP, where the contract is tested."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import fsspec
import kinoml_data as kd
import numpy as np
import pytest
from kinoml_data.errors import CorruptStoreError, SpecError, StoreNotFoundError, StoreReadError, UnsupportedStoreError
from kinoml_data.testing import BackendTests, mixed, same_rows

from kinoml_data_zarr import Zarr

EXAMPLE = mixed()


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for 40 ms

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder, and the URL at which it is served."""
    folder = tmp_path_factory.mktemp("served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class TestHttp(BackendTests):
    machine_examples = 5

    @pytest.fixture(autouse=True)
    def _server(self, served):
        self.served, self.url = served

    @pytest.fixture
    def backend(self, _server, tmp_path):
        return self.make_backend(tmp_path)

    def can(self, backend, capability):
        writes = capability in ("can_write", "keeps_keys")
        return not (writes and backend.path is None) and super().can(backend, capability)

    def make_backend(self, folder):
        """Every backend is for a folder of its own on the server."""
        return Zarr(url=f"{self.url}/{uuid4().hex}/data.zarr")

    def store(self, backend, example):
        folder = self.served / backend.url.split("/")[-2]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        super().store(Zarr(path=folder / "data.zarr"), example)
        return backend

    def test_closing_lets_go_of_files(self, shared):
        """fsspec keeps some connections to a server for its next readers; they must not add up."""
        _, stored = shared(EXAMPLE)
        held = []
        for _ in range(12):
            with closing(stored.open(EXAMPLE.columns)) as storage:
                storage.read(np.array([0]), list(EXAMPLE.columns))
            held.append(len(list(Path("/proc/self/fd").iterdir())))
        assert min(held[6:]) <= max(held[:6])


@pytest.fixture
def memory(tmp_path):
    """A URL in memory that contains the example."""
    Zarr(path=tmp_path / "data.zarr").write(
        EXAMPLE.columns, EXAMPLE.batches(), arrays=EXAMPLE.arrays, spec=EXAMPLE.spec
    )
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "data.zarr"), "/bucket/data.zarr", recursive=True)
    yield "memory://bucket/data.zarr"
    fs.rm("/bucket", recursive=True)


def test_a_zarr_store_in_memory_is_read_with_and_without_workers(memory):
    backend = Zarr(url=memory)
    with closing(backend.open(None)) as storage:
        same_rows(storage, EXAMPLE, [6, 0, 3, 3])
        assert storage.has_checksums and storage.spec == EXAMPLE.spec
    with kd.load_dataset({"storage": {"backend": "zarr", "url": memory}}) as dataset:
        loader = dataset.as_dataloader(batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=120)
        assert sum(len(next(iter(X.values()))) for X, _ in loader) == len(EXAMPLE)


def test_a_lost_chunk_in_memory_is_an_error(memory):
    fs = fsspec.filesystem("memory")
    chunks = [path for path in fs.find("/bucket") if "/c/" in path]
    for path in chunks:
        held = fs.cat_file(path)
        fs.rm_file(path)
        with pytest.raises(CorruptStoreError), closing(Zarr(url=memory).open(None)) as storage:
            same_rows(storage, EXAMPLE, range(len(EXAMPLE)))
        fs.pipe_file(path, held)
    assert len(chunks) > 10


def test_a_store_that_does_not_exist_is_not_found(served):
    for url in ("memory://nowhere", f"{served[1]}/nowhere"):
        with pytest.raises(StoreNotFoundError, match="nowhere"):
            Zarr(url=url).open(None)


def test_a_server_that_does_not_answer_is_an_error():
    with pytest.raises(StoreReadError):
        Zarr(url="http://127.0.0.1:9/data.zarr").open(None)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SpecError, match="gs://bucket"):
        Zarr(url="gs://bucket/data.zarr").open(None)


def test_a_url_is_not_written_to():
    with pytest.raises(UnsupportedStoreError, match="upload"):
        Zarr(url="memory://bucket/new.zarr").write({"y": kd.Array("float32")}, [{"y": np.zeros(3, np.float32)}])
    assert not fsspec.filesystem("memory").exists("/bucket/new.zarr")


def test_a_spec_whose_files_must_be_in_one_folder_contacts_no_server(tmp_path: Path) -> None:
    spec = {"X": "X", "storage": {"backend": "zarr", "url": "memory://elsewhere"}}
    with pytest.raises(SpecError, match="must be in one folder cannot have a `url`"):
        kd.load_dataset(kd.DatasetSpec.parse(spec, base=tmp_path, root=tmp_path))
