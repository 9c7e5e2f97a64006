"""The page that `kinoml-data report` writes: what is in a dataset, what leaks, and where it comes from."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kinoml_data import registry
from kinoml_data.dataset import description
from kinoml_data.dataset.description import ColumnFacts, is_computed
from kinoml_data.dataset.html import columns_html
from kinoml_data.dataset.split_check import compared_columns, leaks_html, sizes_html
from kinoml_data.errors import KinomlDataError, count_of, format_size, one_line
from kinoml_data.files import check_target, replacing
from kinoml_data.report.contents import LIMIT, Content, Reported, content_of, groups_of
from kinoml_data.report.drawings import drawings_html
from kinoml_data.report.figures import check_matplotlib
from kinoml_data.report.html import document_html, note_html
from kinoml_data.report.lengths import lengths_html
from kinoml_data.report.values import missing_html, texts_html, values_html
from kinoml_data.spec import config
from kinoml_data.spec.html import MANY, details_html, page_html, pairs_html

SAMPLE = 1000  # rows that are read of a column that is not read completely
PACKAGES = ("kinoml-data", "torch", "numpy", "pyarrow")


def check_report(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Check that a report can be written, before any row is read; returns the path. Raises the errors of `report`."""
    check_matplotlib()
    check_target(Path(path), overwrite=overwrite)
    return Path(path)


def write(path: Path, title: str, sections: Sequence[str], *, overwrite: bool) -> None:
    """Write a page that consists of the sections of `dataset_html`; raises the errors of `replacing`."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(document_html(title, sections), "utf-8")


def dataset_html(
    dataset: Reported,
    name: str | None = None,
    *,
    sample: int = SAMPLE,
    fingerprint: bool | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Everything about one dataset, as HTML. Everything from the data is escaped.

    Args:
        dataset: the open dataset.
        name: the name in the heading; by default that of the spec.
        sample: the number of rows to read of a column that is not read completely.
        fingerprint: whether to compute the fingerprint, which reads all rows of all columns. By default it is computed
            if they take at most 128 MiB and need no featurizer.
        progress: called with the number of columns that were looked at, and of all columns.
    """
    columns = description.columns(dataset, sample, progress)
    groups = groups_of(dataset)
    contents = _contents(dataset, columns, sample)
    facts = dict(description.facts(dataset, columns))
    notes = [note_html(hint)] if (hint := description.roles_hint(dataset)) else []
    parts = [
        pairs_html((label, text) for label, text in facts.items() if label not in ("dataset", "splits")),
        *notes,
        _section("Columns", _columns(dataset, columns, min(sample, len(dataset))), is_open=len(columns) <= MANY),
        _section("Values", values_html(dataset, contents, groups)),
        _section("Splits", _splits(dataset, columns)),
        drawings_html(dataset, contents),
        _section("Lengths and padding", lengths_html(dataset, columns, sample)),
        _section("Missing values", _missing(dataset, contents, columns, sample)),
        _section("Other columns", texts_html(dataset, contents, columns)),
        _section("Provenance", _provenance(dataset, columns, fingerprint)),
    ]
    return page_html(type(dataset).__name__, name or dataset.spec.name, count_of(len(dataset), "row"), parts)


def _section(title: str, content: str, *, is_open: bool = True) -> str:
    return details_html(title, content, is_open=is_open) if content else ""


def _contents(dataset: Reported, columns: Sequence[ColumnFacts], sample: int) -> dict[str, Content]:
    """What is read of y and meta; without roles, of all columns that have one number or text per row."""
    spec = dataset.spec
    if spec.X is not None:
        names = {*spec.y_names, *spec.meta}
    else:
        names = {name for name, array in spec.columns.items() if array.is_string or not array.shape}
    return {facts.name: content_of(dataset, facts, sample) for facts in columns if facts.name in names}


def _columns(dataset: Reported, columns: Sequence[ColumnFacts], sample: int) -> str:
    if not columns:
        return note_html("No column can be read.")
    read = f"the first {sample:,} rows" if sample < len(dataset) else "all rows"
    note = note_html(f"First values and ranges are those of {read}.") if sample else ""
    if not all(column.exact for column in columns):
        note += note_html("Shapes and sizes are estimated from these rows if the store does not know them.")
    return columns_html(columns, with_values=True) + note


def _splits(dataset: Reported, columns: Sequence[ColumnFacts]) -> str:
    """The sizes of the splits, and what two of them share."""
    sizes = {name: len(rows) for name, rows in dataset.indices.items()}
    if not sizes:
        return note_html("The dataset has no splits.")
    binding, spec = dataset._session.binding, dataset.spec
    names = compared_columns(binding, spec)
    large = [column.name for column in columns if column.nbytes > LIMIT]  # values that rows share count once
    costly = [name for name in names if name in large or is_computed(dataset, name)]
    costly = [name for name in costly if name not in spec.split_columns]
    bar = sizes_html(sizes, len(dataset) - sum(sizes.values()))
    try:
        check = dataset.check_splits([name for name in names if name not in costly])
    except KinomlDataError as error:
        return bar + note_html(f"What the splits share is not known: {one_line(error)}", is_warning=True)
    leaks, notes = leaks_html(check.shared, check.apart), ""
    if costly:
        option = " ".join(f"--column {name}" for name in costly)
        way = f"to compare them, run `kinoml-data splits PATH {option}`"
        notes += note_html(f"Not compared, because that may take long: {', '.join(costly)}; {way}.")
    if not check.columns:
        notes += note_html("No column was compared: there is no text in meta, and no column whose rows share values.")
    return bar + leaks + notes


def _missing(dataset: Reported, contents: Mapping[str, Content], columns: Sequence[ColumnFacts], sample: int) -> str:
    table = missing_html(dataset, contents, columns, sample)
    read = min(sample, len(dataset))
    text = "Of the columns that are not listed, no value that was read is missing." if table else "No value is missing."
    if read < len(dataset) and len(contents) < len(columns):
        sampled = "X" if dataset.spec.X is not None else "columns with several numbers per row"
        text += f" Of {sampled}, only {read:,} rows were read."
    problems = [f"{name}: {reason}" for name, reason in description.unreadable(dataset).items()]
    problems += [f"{name}: {content.problem}" for name, content in contents.items() if content.problem]
    return table + note_html(text) + "".join(note_html(problem, is_warning=True) for problem in problems)


def _provenance(dataset: Reported, columns: Sequence[ColumnFacts], requested: bool | None) -> str:
    installed = {plugin.distribution: plugin.version for plugin in registry.registry().plugins}
    versions = {name: _version(name) for name in PACKAGES} | dict(sorted(installed.items()))
    pairs = [
        ("fingerprint", _fingerprint(dataset, columns, requested)),
        ("made", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("versions", ", ".join(f"{name} {text}" for name, text in versions.items() if text)),
        ("system", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"),
    ]
    text = config.dump(dataset.spec.to_mapping(), ".yaml")
    return pairs_html(pairs) + details_html("The complete spec", f"<pre>{escape(text)}</pre>")


def _fingerprint(dataset: Reported, columns: Sequence[ColumnFacts], requested: bool | None) -> str:
    way = "`kinoml-data report PATH --fingerprint` computes it"
    if requested is None:
        if any(is_computed(dataset, column.name) for column in columns):
            return f"not computed, because that would compute the features of all rows; {way}"
        if sum(column.nbytes for column in columns) > LIMIT:
            return f"not computed, because that would read more than {format_size(LIMIT)}; {way}"
    if requested is False:
        return f"not computed; {way}"
    try:
        return dataset.fingerprint()
    except KinomlDataError as error:
        return f"not known: {one_line(error)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
