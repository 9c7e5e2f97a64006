"""Features on disk, which are found by the content of the inputs that they were computed from.

A cache is a folder with one sub-folder for each featurizer: for its name, options, outputs and version. The sub-folder
contains parts, which are NPZ files of this library with the features of some inputs and the digest of each input. Each
part appears complete, by a rename, and never changes. Any number of processes, also on several machines, can therefore
use one cache without locks, and a part that a killed process did not complete is not used. A part can be deleted at
any time; its features are then computed again.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import re
import secrets
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinoml_data.backends.featurizer_call import Arrays, column_of_rows
from kinoml_data.backends.npz import writer
from kinoml_data.backends.npz.storage import NpzStorage
from kinoml_data.columns import Column, Columns
from kinoml_data.errors import CorruptStoreError, KinomlDataError, StoreWriteError, one_line, quoted
from kinoml_data.files import replacing
from kinoml_data.layouts.flat_writing import other_arrays
from kinoml_data.lru import LruCache
from kinoml_data.spec.array import Array

LAYOUT = 1  # of the parts, and of digests of inputs; those of other layouts are in other sub-folders
DIGEST = 32  # bytes
PART_BYTES = 1 << 24  # of features that wait to be written as a part
WAIT = 10.0  # seconds for which features wait to be written, so that a process that is killed loses no more
RESCAN = 5.0  # seconds after which a miss looks for the parts that other processes have added
ENTRY_BYTES = 200  # that an entry takes in memory, in addition to its features
OPEN_BYTES = 1 << 28  # of the directories of parts, which are kept in memory
PART_MEMORY, ROW_MEMORY = 50_000, 32  # bytes that the directory of a part takes, and how many more for each row
DAY = 86400.0  # seconds after which an unfinished part must be that of a process that was killed
_FOLDER = re.compile(r"[\w.-]*-[0-9a-f]{32}")
_PART = re.compile(r"part-[0-9a-f]{16}\.npz")
_PARTIAL = re.compile(r"\.part-[0-9a-f]{16}\.npz\..*\.partial")

Level = tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32]]  # sorted prefixes of digests; part and row


class FeatureCache:
    """The features of one featurizer in a cache. Threads and forked processes may share it.

    Pickling it keeps its arguments; a process that unpickles it several times gets one object.

    Args:
        folder: the folder of the cache, which is created if it does not exist.
        budget: the number of bytes of the files of all featurizers in the folder. Whenever a part is written, the parts
            that have not been used for longest are deleted until the rest fits.
        identity: whatever determines the features besides the inputs, as JSON.
        outputs: the columns that the featurizer computes.

    Attributes:
        folder: the sub-folder of the featurizer.
        hits, misses: for how many inputs this process has found the features, and for how many it has not.

    Raises:
        StoreWriteError: the folder does not exist and cannot be created.
    """

    def __init__(self, folder: Path, budget: int, identity: Mapping[str, Any], outputs: Mapping[str, Array]) -> None:
        self._arguments = folder, budget, identity, outputs
        self._root, self._budget = folder, budget
        declared = [[name, array.model_dump(mode="json")] for name, array in outputs.items()]
        self._identity = json.dumps({"layout": LAYOUT, **identity, "outputs": declared}, sort_keys=True)
        label = re.sub(r"[^\w.-]", "_", str(identity.get("featurizer", "")))[:60]
        self.folder = folder / f"{label}-{blake2b(self._identity.encode(), digest_size=16).hexdigest()}"
        self._columns = {"digest": Array("uint8", (DIGEST,))}
        self._columns |= {f"output{i}": Array(a.dtype, a.shape) for i, a in enumerate(outputs.values())}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writes = os.access(self.folder if self.folder.exists() else folder, os.W_OK)
        except OSError as error:
            raise StoreWriteError(f"cannot create the folder {quoted(str(folder))} of the cache: {error}") from error
        self._names: list[str] = []  # of the parts, by the numbers that the index has for them
        self._levels: list[Level] = []
        self._open: LruCache[str, NpzStorage] = LruCache(OPEN_BYTES)
        self._used: set[str] = set()
        self._scanned = -RESCAN
        self._reset()

    def _reset(self) -> None:
        self._pid, self._lock = os.getpid(), threading.RLock()
        self._waiting: dict[bytes, Arrays] = {}
        self._waiting_bytes, self._waiting_since = 0, 0.0
        self._at_exit: multiprocessing.util.Finalize | None = None
        self.hits = self.misses = 0

    def _locked(self) -> threading.RLock:
        if self._pid != os.getpid():  # forked: what waits is written by the other process
            self._reset()
        return self._lock

    def __reduce__(self) -> tuple[Any, ...]:
        return open_cache, self._arguments

    def get_many(self, digests: Sequence[bytes]) -> dict[int, Arrays]:
        """The features that the cache contains, in new arrays: one for each output, by the position of the digest."""
        with self._locked():
            found = {i: self._waiting[digest] for i, digest in enumerate(digests) if digest in self._waiting}
        self._find(digests, found)
        if len(found) < len(digests) and self._scan():
            self._find(digests, found)
        with self._lock:
            self.hits += len(found)
            self.misses += len(digests) - len(found)
        return found

    def put(self, digest: bytes, arrays: Arrays) -> None:
        """Remember the features of one input, and write all features that wait if they are many or have waited long."""
        with self._locked():
            if not self._writes:
                return
            if not self._waiting:
                self._waiting_since = time.monotonic()
                self._at_exit = self._at_exit or multiprocessing.util.Finalize(None, self.flush, exitpriority=10)
            self._waiting[digest] = arrays
            self._waiting_bytes += ENTRY_BYTES + sum(array.nbytes for array in arrays)
            if self._waiting_bytes >= PART_BYTES or time.monotonic() - self._waiting_since >= WAIT:
                self.flush()

    def rescan(self) -> None:
        """Look at once for the parts that other processes have added."""
        with self._locked():
            self._scanned = -RESCAN
            self._scan()

    def flush(self) -> None:
        """Write the features that wait. If that fails, a warning says so, and this process writes no more."""
        with self._locked():
            if not self._waiting:
                return
            name, batch = f"part-{secrets.token_hex(8)}.npz", self._batch()
            try:
                self._write(name, batch)
                self._add({name: batch["digest"]})
            except OSError as error:
                self._writes = False
                text = f"features are computed, but no longer written to the cache: {one_line(error)}"
                warnings.warn(text, stacklevel=2)
            self._waiting, self._waiting_bytes = {}, 0
            with suppress(OSError):
                self._keep_to_budget()

    def close(self) -> None:
        """Write the features that wait. The cache can still be used."""
        self.flush()
        if self._at_exit is not None:
            self._at_exit.cancel()
            self._at_exit = None
        if _caches.get((self.folder, self._budget)) is self:
            del _caches[self.folder, self._budget]

    @property
    def size(self) -> int:
        """The number of inputs whose features the cache contains; those that two processes wrote count twice."""
        self._scan()
        with self._lock:
            return len(self._waiting) + sum(len(prefixes) for prefixes, _, _ in self._levels)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the files of this featurizer."""
        return sum(size for _, size, _ in _parts(self.folder))

    # -- parts

    def _find(self, digests: Sequence[bytes], found: dict[int, Arrays]) -> None:
        """Add to `found` the features of those digests whose parts are known."""
        missing = np.array([i for i in range(len(digests)) if i not in found], np.int64)
        if not len(missing):
            return
        wanted = _stacked([digests[i] for i in missing])
        with self._locked():
            levels, prefixes = list(self._levels), _prefixes(wanted)
        parts, rows = np.full(len(missing), -1, np.int32), np.zeros(len(missing), np.int64)
        for known, part_numbers, row_numbers in levels:
            at = np.minimum(np.searchsorted(known, prefixes), len(known) - 1)
            same = known[at] == prefixes
            parts[same], rows[same] = part_numbers[at[same]], row_numbers[at[same]]
        for part in np.unique(parts[parts >= 0]).tolist():
            chosen = np.flatnonzero(parts == part)
            features = self._read(part, rows[chosen], wanted[chosen])
            found.update((i, arrays) for i, arrays in zip(missing[chosen].tolist(), features, strict=True) if arrays)

    def _read(self, part: int, rows: NDArray[np.int64], wanted: NDArray[np.uint8]) -> list[Arrays | None]:
        """The features in some rows of a part; None for each row whose digest is not the wanted one."""
        name = self._names[part]
        read = self._read_part(name, rows, list(self._columns))
        if read is None:
            with self._locked():
                self._levels = [_without(level, part) for level in self._levels]
                self._levels = [level for level in self._levels if len(level[0])]
            return [None] * len(rows)
        if name not in self._used:  # the time of access; another time of modification would mean another content
            self._used.add(name)
            with suppress(OSError):
                path = self.folder / name
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        digest, *outputs = (read[name] for name in self._columns)
        is_wanted = (np.asarray(digest) == wanted).all(axis=1).tolist()
        return [tuple(np.array(o[i]) for o in outputs) if same else None for i, same in enumerate(is_wanted)]

    def _read_part(self, name: str, rows: NDArray[np.int64] | None, columns: list[str]) -> Columns | None:
        """Some rows of a part, or all of them; None if the part is gone or damaged. A damaged part is deleted."""
        path = self.folder / name
        try:
            storage = self._open.get_all([name]).get(name)
            if storage is None:
                storage = NpzStorage(path, self._columns, io="reopen", verify="always")
                if storage.spec != self._identity or not self._has_columns(storage):
                    raise CorruptStoreError(f"{path} contains the features of another featurizer")
                self._open.put(name, storage, PART_MEMORY + ROW_MEMORY * len(storage))
            rows = np.arange(len(storage)) if rows is None else rows
            if int(rows.max(initial=-1)) >= len(storage):
                raise CorruptStoreError(f"{path} has fewer rows than before")
            return storage.read(rows, columns)
        except OSError:  # it was deleted, or cannot be read now
            return None
        except KinomlDataError:
            with suppress(OSError):
                path.unlink()
            return None

    def _has_columns(self, storage: NpzStorage) -> bool:
        """Whether a part has the declared columns; an axis has a length if all rows of the part have it."""
        return storage.columns.keys() == self._columns.keys() and all(
            stored.dtype == declared.dtype
            and len(stored.shape) == len(declared.shape)
            and all(axis in (None, length) for axis, length in zip(declared.shape, stored.shape, strict=True))
            for stored, declared in ((storage.columns[name], array) for name, array in self._columns.items())
        )

    def _scan(self) -> bool:
        """Look for parts that other processes have added, unless that was done just now; True if it was done."""
        with self._locked():
            if time.monotonic() - self._scanned < RESCAN:
                return False
            self._scanned = time.monotonic()
            known, digests = set(self._names), {}
            for path, _, _ in _parts(self.folder):
                if path.name not in known and (read := self._read_part(path.name, None, ["digest"])) is not None:
                    digests[path.name] = read["digest"]
            self._add(digests)
            return True

    def _add(self, digests: Mapping[str, Column]) -> None:
        """Add parts to the index. Its levels shrink by half or more, so that each digest is sorted a few times only."""
        first, lengths = len(self._names), [len(column) for column in digests.values()]
        self._names.extend(digests)
        if not sum(lengths):
            return
        prefixes = _prefixes(np.concatenate([np.asarray(column) for column in digests.values()]))
        parts = np.repeat(np.arange(first, len(self._names), dtype=np.int32), lengths)
        rows = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        levels = list(self._levels)
        while levels and len(levels[-1][0]) < 2 * len(prefixes):
            level = levels.pop()
            prefixes, parts = np.concatenate([level[0], prefixes]), np.concatenate([level[1], parts])
            rows = np.concatenate([level[2], rows])
        order = np.argsort(prefixes)
        self._levels = [*levels, (prefixes[order], parts[order], rows[order])]

    def _batch(self) -> Columns:
        """The features that wait, as columns."""
        batch: dict[str, Column] = {"digest": _stacked(list(self._waiting))}
        for name, rows in zip(list(self._columns)[1:], zip(*self._waiting.values(), strict=True), strict=True):
            batch[name] = column_of_rows(rows, self._columns[name])
        return batch

    def _write(self, name: str, batch: Columns) -> None:
        self.folder.mkdir(exist_ok=True)
        description = self.folder / "featurizer.json"
        if not description.exists():
            with replacing(description, overwrite=True) as temporary:
                temporary.write_text(json.dumps(json.loads(self._identity), indent=1), "utf-8")
        with replacing(self.folder / name, overwrite=False) as temporary:
            writer.write(temporary, self._columns, [batch], other_arrays({}, self._identity), compress=False)

    def _keep_to_budget(self) -> None:
        folders = [entry.path for entry in os.scandir(self._root) if _FOLDER.fullmatch(entry.name) and entry.is_dir()]
        parts = [part for folder in folders for part in _parts(Path(folder))]
        excess = sum(size for _, size, _ in parts) - self._budget
        for path, size, _ in sorted(parts, key=lambda part: part[2]):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
        for entry in os.scandir(self.folder):
            if _PARTIAL.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - DAY:
                Path(entry.path).unlink(missing_ok=True)


_caches: dict[tuple[Path, int], FeatureCache] = {}


def open_cache(folder: Path, budget: int, identity: Mapping[str, Any], outputs: Mapping[str, Array]) -> FeatureCache:
    """The `FeatureCache` with these arguments; the same object for each call until it is closed."""
    cache = FeatureCache(folder, budget, identity, outputs)
    return _caches.setdefault((cache.folder, budget), cache)


def _parts(folder: Path) -> list[tuple[Path, int, float]]:
    """The parts in a sub-folder: the path, the number of bytes, and when the part was used last."""
    parts = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # such as a part that another process has just deleted
                if _PART.fullmatch(entry.name):
                    status = entry.stat()
                    parts.append((Path(entry.path), status.st_size, max(status.st_atime, status.st_mtime)))
    return parts


def _stacked(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)


def _prefixes(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]


def _without(level: Level, part: int) -> Level:
    others = level[1] != part
    return level[0][others], level[1][others], level[2][others]
