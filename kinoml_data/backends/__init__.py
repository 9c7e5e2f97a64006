"""The built-in backends."""

from kinoml_data.backend import Backend
from kinoml_data.backends.csv import Csv
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.backends.joined import Joined
from kinoml_data.backends.npz_lazy import NpzLazy
from kinoml_data.backends.npz_reopen import NpzReopen
from kinoml_data.backends.parquet_awkward import ParquetAwkward

BUILT_IN: tuple[type[Backend], ...] = (InMemory, NpzLazy, NpzReopen, ParquetAwkward, FeaturizeOnAccess, Joined, Csv)
