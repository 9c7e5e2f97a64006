"""Threads that read at once, reduced; and that the proof would notice."""

from __future__ import annotations

import pytest

from kinoml_data.layouts.flat_arrays import ArrayStorage
from tests.faults import threads


def test_threads_that_read_at_once_get_what_was_stored():
    threads.run(cases=60, seed=1).check()


@pytest.mark.slow
def test_a_storage_that_keeps_the_rows_it_reads_is_noticed(monkeypatch):
    def kept(self, rows, columns):
        self.rows = rows
        return {name: self._column(name, self.rows) for name in columns}

    monkeypatch.setattr(ArrayStorage, "read", kept)
    assert threads.run(cases=300).problems
