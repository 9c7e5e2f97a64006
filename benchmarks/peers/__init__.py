"""The peers, each used as its documentation shows, and the limits."""

from __future__ import annotations

from benchmarks.adapters import Adapter
from benchmarks.peers.array_stores import H5py, TensorDictMemmap, Zarr
from benchmarks.peers.arrow_tables import HuggingFaceArrow, HuggingFaceTorch, Lance, ScDataset
from benchmarks.peers.limits import OneTensor, ReadyTensors
from benchmarks.peers.loaders import Geometric, LitData, WebDataset
from benchmarks.peers.numpy_files import (
    Awkward,
    Jagged,
    NumpyCompressed,
    NumpyLazy,
    NumpyMemmap,
    NumpyPreload,
    NumpyReopen,
)
from benchmarks.peers.records import Bagz, Grain, Lmdb, Spdl

PEERS: tuple[type[Adapter], ...] = (
    *(NumpyLazy, NumpyReopen, NumpyPreload, NumpyCompressed, NumpyMemmap, Awkward, Jagged),
    *(HuggingFaceArrow, HuggingFaceTorch, ScDataset, Lance, H5py, Zarr, TensorDictMemmap),
    *(Lmdb, Bagz, Spdl, Grain),
    *(Geometric, LitData, WebDataset),
    *(ReadyTensors, OneTensor),
)
