"""Writers that are stopped at any moment, at a reduced size, and a file that is written onto itself."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data import copied_rows, files
from kinoml_data.errors import StoreExistsError, StoreReadError, StoreWriteError
from kinoml_data.files import PositionedFile, replacing
from tests.faults import power_loss, writers


@pytest.fixture(scope="module")
def strace():
    path = shutil.which("strace")
    if path is None or platform.machine() != "x86_64":  # elsewhere the calls have other names
        pytest.skip("strace is not installed, or knows the calls by other names")
    if subprocess.run([path, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


@pytest.mark.usefixtures("strace")
def test_a_writer_stopped_anywhere_leaves_the_old_or_the_new_store_whole(scaled, jobs):
    report = writers.run(cases=scaled(150), jobs=jobs)
    report.check()
    assert report.executed == scaled(150)


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("weaken", "only", "found"),
    [
        ("in place", "npz, over an old one: kill", "lost"),
        ("no cleaning", "parquet, fresh: Ctrl-C", "left"),
        ("last wins", "npz, fresh: race", "Ended(error='', text='', known=True, open_files=0), Ended(error=''"),
    ],
)
def test_the_proof_of_the_writers_fails_without_one_protection(weaken, only, found):
    report = writers.run(cases=30, jobs=1, only=only, weaken=weaken)
    assert report.executed == 30 and any(found in problem for problem in report.problems), report.problems
    with pytest.raises(AssertionError):
        report.check()


@pytest.mark.usefixtures("strace")
def test_a_power_loss_at_any_moment_leaves_the_old_or_the_new_store_whole(scaled, jobs):
    report = power_loss.run(cases=scaled(150), jobs=jobs)
    report.check()
    assert report.executed >= scaled(120)


@pytest.mark.slow
@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("weaken", "found"), [("no flush", "corrupt"), ("no flush of folders", "success was returned, and the target is")]
)
def test_the_proof_of_power_losses_fails_without_a_flush(weaken, found):
    report = power_loss.run(cases=60, jobs=1, only="npz, ", weaken=weaken)
    assert report.executed == 60 and any(found in problem for problem in report.problems), report.problems
    with pytest.raises(AssertionError):
        report.check()


# -- onto itself

STORES = {
    "stored": ({"backend": "npz-lazy"}, {}, ".npz"),
    "mapped": ({"backend": "npz-lazy"}, {"io": "mmap"}, ".npz"),
    "compressed": ({"backend": "npz-lazy", "compress": True}, {}, ".npz"),
    "reopened": ({"backend": "npz-lazy"}, {"backend": "npz-reopen"}, ".npz"),
    "parquet": ({"backend": "parquet-awkward"}, {}, ".parquet"),
    "parquet by group": ({"backend": "parquet-awkward"}, {"memory_budget": 0}, ".parquet"),
}


def another_spelling(path, how):
    """The same file by another path."""
    folder = path.parent
    if how == "dots":
        return folder / ".." / folder.name / "." / path.name
    if how == "symbolic link":
        (folder / f"link{path.suffix}").symlink_to(path.name)
        return folder / f"link{path.suffix}"
    if how == "link to the folder":
        (folder / "elsewhere").symlink_to(folder)
        return folder / "elsewhere" / path.name
    if how == "hard link":
        os.link(path, folder / f"hard{path.suffix}")
        return folder / f"hard{path.suffix}"
    return path.name if how == "relative" else path


def spelled_stores():
    """Every store by every path; the target is found by its path alone, so one store of each container is quick."""
    for name, store in STORES.items():
        for how in ("the same", "relative", "dots", "symbolic link", "link to the folder", "hard link"):
            quick = how == "the same" or name in ("stored", "parquet")
            yield pytest.param(*store, how, marks=[] if quick else [pytest.mark.slow], id=f"{name}-{how}")


@pytest.mark.filterwarnings("ignore:.*memory_budget:UserWarning")  # of 0, so that it is read by row group
@pytest.mark.parametrize(("written", "opened", "suffix", "how"), [*spelled_stores()])
def test_a_store_converted_onto_itself_stays_as_it_is(tmp_path, monkeypatch, written, opened, suffix, how):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / f"d{suffix}"
    kd.save_dataset(writers.dataset("new"), {**written, "path": str(path)})
    content, same = path.read_bytes(), another_spelling(path, how)
    before = sorted(folder.iterdir())
    for source, target in ((path, same), (same, path)):
        spec = {"storage": {"backend": written["backend"], "path": str(source), **opened}}
        with kd.load_dataset(source, **opened) as dataset:
            spec = dataset.spec
        with pytest.raises(StoreExistsError):
            kd.convert(spec, {**written, "path": str(target)})
        assert path.read_bytes() == content
        kd.convert(spec, {**written, "path": str(target)}, overwrite=True)
        assert writers.differs(path, "new") is None and writers.differs(folder / same, "new") is None
    assert sorted(folder.iterdir()) == before and (how != "symbolic link" or same.is_symlink())


def test_an_open_dataset_is_written_over_its_own_store_from_a_view(tmp_path):
    path = tmp_path / "d.npz"
    kd.save_dataset(writers.dataset("new"), path)
    with kd.load_dataset(path) as dataset:
        kd.save_dataset(dataset.split("train"), path, overwrite=True)
        expected = [writers.MEMORY["new"]["y"][row] for row in writers.SPLITS["train"]]
        with kd.load_dataset(path) as copy:
            assert np.array_equal(copy.column("y").numpy(), expected)
        # The old file is still the one that is held open.
        assert np.array_equal(dataset.column("y").numpy(), writers.MEMORY["new"]["y"])


# -- what the proof has found


def refuse(monkeypatch, name, code=errno.EIO):
    def refused(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, refused)


def test_a_status_that_cannot_be_read_is_a_read_error(tmp_path, monkeypatch):
    path = tmp_path / "d"
    path.write_bytes(b"x" * 10)
    held, again = PositionedFile(path), PositionedFile(path, keep_open=False)
    refuse(monkeypatch, "fstat")
    for act in (held.check, again.check, lambda: held.read(0, 1), lambda: again.read(0, 1)):
        with pytest.raises(StoreReadError, match="Input/output error"):
            act()
    with pytest.raises(StoreReadError, match="Input/output error"):
        PositionedFile(path)
    monkeypatch.undo()
    assert bytes(held.read(0, 1)) == b"x"
    held.close()


def test_a_file_that_was_read_and_cannot_be_closed_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / "d"
    path.write_bytes(b"x")
    held, closed = PositionedFile(path), []

    def failing(fd, close=os.close):
        closed.append(fd)
        close(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", failing)
    assert bytes(PositionedFile(path, keep_open=False).read(0, 1)) == b"x"
    held.close()
    held.close()  # and its number, which may be another file's by now, not once more
    monkeypatch.undo()
    assert len(closed) == 3


def test_a_folder_that_cannot_be_looked_at_is_a_write_error(tmp_path, monkeypatch):
    (tmp_path / "d").write_bytes(b"old")
    refuse(monkeypatch, "stat")
    with pytest.raises(StoreWriteError), replacing(tmp_path / "d", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    monkeypatch.undo()
    assert (tmp_path / "d").read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["d"]


def test_ctrl_c_while_the_temporary_file_is_removed_leaves_none(tmp_path, monkeypatch):
    remove, calls = files._remove, []

    def interrupted(temporary):
        calls.append(temporary)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(temporary)

    monkeypatch.setattr(files, "_remove", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "d", overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_to_itself_is_replaced(tmp_path):
    (tmp_path / "d").symlink_to("d")
    with pytest.raises(StoreExistsError), replacing(tmp_path / "d", overwrite=False):
        pass
    with replacing(tmp_path / "d", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "d").read_bytes() == b"new"


@pytest.mark.parametrize("compress", [False, True])
def test_writing_npz_leaves_nothing_beside_it_that_has_a_name(tmp_path, monkeypatch, compress):
    seen = []

    def look(*args, read=kd.XyDataset.read_stored):
        seen.append([path.name for path in tmp_path.iterdir()])
        return read(*args)

    monkeypatch.setattr(copied_rows, "ROWS_PER_BATCH", 10)
    monkeypatch.setattr(kd.XyDataset, "read_stored", look)
    target = {"backend": "npz-lazy", "path": str(tmp_path / "d.npz"), "compress": compress}
    kd.save_dataset(writers.dataset("new"), target)
    assert seen == [[]] * (writers.ROWS // 10 + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]
