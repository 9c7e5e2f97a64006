"""The peers, each used as its documentation shows, and the limits."""

from __future__ import annotations

from benchmarks.adapters import Adapter
from benchmarks.peers.array_stores import H5py, Lmdb, TensorDictMemmap, Zarr
from benchmarks.peers.arrow_tables import HuggingFaceArrow, HuggingFaceTorch, Lance
from benchmarks.peers.limits import OneTensor, ReadyTensors
from benchmarks.peers.loaders import Geometric, LitData, WebDataset
from benchmarks.peers.numpy_files import Awkward, NumpyCompressed, NumpyLazy, NumpyMemmap, NumpyPreload, NumpyReopen

PEERS: tuple[type[Adapter], ...] = (
    *(NumpyLazy, NumpyReopen, NumpyPreload, NumpyCompressed, NumpyMemmap, Awkward),
    *(HuggingFaceArrow, HuggingFaceTorch, Lance, H5py, Zarr, TensorDictMemmap, Lmdb),
    *(Geometric, LitData, WebDataset),
    *(ReadyTensors, OneTensor),
)
