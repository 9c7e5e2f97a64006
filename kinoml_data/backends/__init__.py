"""The built-in backends."""

from kinoml_data.backends.csv.backend import Csv
from kinoml_data.backends.featurize_on_access import FeaturizeOnAccess
from kinoml_data.backends.in_memory import InMemory
from kinoml_data.backends.joined.backend import Joined
from kinoml_data.backends.npz.backend import NpzLazy, NpzReopen
from kinoml_data.backends.parquet.backend import ParquetAwkward
from kinoml_data.contracts.backend import Backend

BUILT_IN: tuple[type[Backend], ...] = (InMemory, NpzLazy, NpzReopen, ParquetAwkward, FeaturizeOnAccess, Joined, Csv)
