"""`BackendTests`: the contract of `Backend` and `Storage` as tests, one test per rule."""

from __future__ import annotations

from kinoml_data.testing.dataset_tests import DatasetTests
from kinoml_data.testing.key_tests import KeyTests, KeyWritingTests
from kinoml_data.testing.reading_tests import ReadingTests
from kinoml_data.testing.storage_tests import OptionTests, StorageTests
from kinoml_data.testing.writing_tests import OverwritingTests, WritingTests


class BackendTests(
    ReadingTests,
    StorageTests,
    KeyTests,
    OptionTests,
    WritingTests,
    OverwritingTests,
    KeyWritingTests,
    DatasetTests,
):
    """Every rule of the contract of `Backend` and `Storage`. The author of a plugin subclasses it.

    A backend that can write needs one method; the suite then writes its own examples::

        class TestZarr(BackendTests):
            def make_backend(self, folder):
                return Zarr(path=folder / "data.zarr")

    Any other backend also overrides `store`, and `dataset` if the dataset needs Python objects. The suite reads from
    the class of the backend what it can do, such as `can_write`, and tests it accordingly. It compares dtype, shape
    and bytes with rows that it keeps in memory.

    Attributes:
        machine_examples: the number of random datasets that are used in random ways.
    """
