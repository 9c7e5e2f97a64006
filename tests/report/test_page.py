"""The page: what it says about every kind of dataset, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.errors import PluginLoadError, StoreExistsError, StoreWriteError
from kinoml_data.factory import open_to_copy
from kinoml_data.report import contents, figures, page
from kinoml_data.report.page import dataset_html
from tests.report.pages import Page, cells, mixed

HOSTILE = "<img src='http://x.test/a.png' onerror=alert(1)>&\"</title><script>"


def written(dataset: kd.XyDataset, path: Path, **options: Any) -> str:
    dataset.report(path, **options)
    return path.read_text("utf-8")


def test_a_report_shows_every_section(tmp_path: Path) -> None:
    text = Page(written(mixed(), tmp_path / "r.html").partition(">")[2]).text
    for part in (
        *("6 rows", "Columns", "Values", "Splits", "Lengths and padding", "Missing values", "Other columns"),
        *("Provenance", mixed().fingerprint(), f"kinoml-data {kd.__version__}", "numpy ", "torch ", "Python 3."),
        *("The complete spec", "observation_model:", "in-memory", "First values and ranges are those of all rows."),
    ):
        assert part in text, part


def test_a_page_contains_no_script_and_no_address(tmp_path: Path) -> None:
    html = written(mixed(), tmp_path / "r.html")
    found = Page(html.partition(">")[2])
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    sources = [value for name, value in found.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value is not None and value.startswith("data:") for value in sources)
    assert "http://" not in html and "https://" not in html


def test_names_and_texts_of_the_data_are_never_html(tmp_path: Path) -> None:
    quoted = HOSTILE.replace('"', '""')
    (tmp_path / "<b>.csv").write_text(f'"{quoted}",kind,note\n1,"{quoted}","{quoted}"\n2,b,<b>\n3,b,<b>\n')
    spec = {
        "name": HOSTILE,
        "columns": {
            "value": {"dtype": "float32", "stored_as": HOSTILE},
            "kind": {"dtype": "uint8", "values": [HOSTILE, "b"]},
            "note": {"dtype": "str"},
        },
        "X": "value",
        "y": ["kind"],
        "meta": ["note"],
        "splits": {"train": {"rows": [0, 1]}, "test": {"rows": [2]}},
        "storage": {"backend": "csv", "path": "<b>.csv"},
    }
    with kd.load_dataset(spec, base=tmp_path) as dataset:
        found = Page(written(dataset, tmp_path / "r.html").partition(">")[2])
    assert not {"script", "img"} & set(found.tags)
    assert not [value for name, value in found.attributes if name.startswith("on") or value == "http://x.test/a.png"]
    assert found.text.count(HOSTILE) >= 4 and "<b>.csv" in found.text


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_tiny_datasets_have_reports(rows: int, tmp_path: Path) -> None:
    X, y = np.zeros((rows, 3)), np.zeros(rows)
    for number, dataset in enumerate(
        (
            kd.from_arrays(X),
            kd.from_arrays(X, y),
            kd.from_arrays(X, y, {"train": list(range(rows)), "test": []}),
            mixed().select(list(range(rows))),
        )
    ):
        text = Page(written(dataset, tmp_path / f"{number}.html").partition(">")[2]).text
        assert f"rows {rows}" in text and "Provenance" in text
        assert f"XyDataset {rows} row{'' if rows == 1 else 's'} rows" in text


def test_a_table_of_which_no_column_can_be_read_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("smiles,IC50\n")
    with open_to_copy(tmp_path / "t.csv", loads=False) as dataset:
        text = Page(dataset_html(dataset)).text
    assert "Columns No column can be read." in text and "there are no rows to infer its dtype from" in text


def test_only_what_a_sample_was_read_of_is_said_to_be_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=np.zeros(9), b=np.zeros((9, 2)))
    for names, expected in ((["a"], 0), (["a", "b"], 1)):
        spec = {"columns": {"a": {}, "b": {"shape": [2]}}, "storage": {"backend": "npz-lazy", "path": "t.npz"}}
        spec["columns"] = {name: spec["columns"][name] for name in names}
        with open_to_copy(spec, base=tmp_path) as dataset:
            text = Page(dataset_html(dataset, sample=5)).text
        assert text.count("Of columns with several numbers per row, only 5 rows were read.") == expected


def test_a_table_without_roles_shows_its_numbers_and_how_to_name_roles(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("mw,IC50,name\n1.5,10,a\n2.5,20,b\n")
    with open_to_copy(tmp_path / "t.csv") as dataset:
        html = dataset_html(dataset)
    text = Page(html).text
    assert "Neither the data nor a spec specifies X and y" in text
    assert html.count("<svg") == 2 and ["name", "str", "2", "none occurs twice"] in cells(html)


@pytest.mark.parametrize(
    ("backend", "file"), [("npz-lazy", "d.npz"), ("npz-reopen", "d.npz"), ("parquet-awkward", "d.parquet")]
)
def test_every_backend_has_the_same_figures_tables_and_fingerprint(backend: str, file: str, tmp_path: Path) -> None:
    expected = dataset_html(mixed())
    kd.convert(mixed(), tmp_path / file)
    with kd.load_dataset(tmp_path / file, backend=backend) as dataset:
        html = dataset_html(dataset)
    pictures, expected_pictures = (re.findall("<svg.*?</svg>", text, re.DOTALL) for text in (html, expected))
    assert pictures == expected_pictures and len(pictures) == 3
    assert [row for row in cells(html) if len(row) > 7] == [row for row in cells(expected) if len(row) > 7]
    assert mixed().fingerprint() in html


def test_what_the_splits_share_is_listed(tmp_path: Path) -> None:
    html = dataset_html(mixed())
    assert ["train 1 of 5 (20.0 %)", "test 1 of 1 (100.0 %)", "1"] in cells(html)
    assert "id: 1 pair of splits shares values, up to 100.0 % of test" in Page(html).text
    assert "The dataset has no splits." in Page(dataset_html(mixed(splits={}))).text
    apart = Page(dataset_html(mixed(meta=[], splits={"a": {"rows": [0]}, "b": {"rows": [1]}}))).text
    assert "No column was compared" in apart


def test_values_that_rows_share_are_compared_unless_they_are_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.zeros((100, 1000))  # one value of 8 kB
    kd.convert(kd.from_arrays(X, splits={"a": [0], "b": [1]}), tmp_path / "x.npz", share=["X"])
    with kd.load_dataset(tmp_path / "x.npz") as dataset:
        monkeypatch.setattr(page, "LIMIT", 8000)
        assert "X: 1 pair of splits shares values" in Page(dataset_html(dataset, sample=1)).text
        monkeypatch.setattr(page, "LIMIT", 7999)
        assert "Not compared, because that may take long: X;" in Page(dataset_html(dataset, sample=1)).text


def computing(folder: Path, count: list[str]) -> kd.XyDataset:
    def shout(text: str) -> tuple[Any, ...]:
        count.append(text)
        return text.upper(), np.array([float(len(text))])

    outputs = {"loud": {"dtype": "str"}, "size": {"dtype": "float64", "shape": [1]}}
    (folder / "t.csv").write_text("text,y\n" + "".join(f"{'a' * n},{n}\n" for n in range(1, 9)))
    storage = {"backend": "featurize-on-access", "source": {"backend": "csv", "path": "t.csv"}}
    storage["featurizer"] = {"inputs": ["text"], "outputs": outputs}  # type: ignore[assignment]  # a mapping
    splits = {"train": {"range": [0, 4]}, "test": {"range": [4, 8]}}
    spec = {"X": "size", "y": "y", "meta": ["loud"], "storage": storage, "splits": splits}
    return kd.load_dataset(spec, base=folder, featurizer=shout)


def test_features_are_computed_for_a_sample_only(tmp_path: Path) -> None:
    computed: list[str] = []
    with computing(tmp_path, computed) as dataset:
        text = Page(dataset_html(dataset, sample=3)).text
        assert 0 < len(set(computed)) <= 6
        assert "would compute the features of all rows" in text and dataset.fingerprint() not in text
        assert "Not compared, because that may take long: loud;" in text
        assert dataset.fingerprint() in dataset_html(dataset, sample=3, fingerprint=True)


def test_the_fingerprint_of_large_data_is_computed_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = mixed()
    monkeypatch.setattr(page, "LIMIT", 20)
    monkeypatch.setattr(contents, "LIMIT", 20)
    html = dataset_html(dataset)
    assert dataset.fingerprint() not in html and "<code>kinoml-data report PATH --fingerprint</code>" in html
    assert "Not compared, because that may take long: id" not in html
    assert dataset.fingerprint() in dataset_html(dataset, fingerprint=True)
    monkeypatch.undo()
    assert dataset.fingerprint() not in dataset_html(dataset, fingerprint=False)


def test_data_that_cannot_be_read_is_named_on_the_page(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=np.zeros(3), y=np.array([1.0, 99.0, 2.0]))
    spec = {"columns": {"y": {"range": [0, 10]}, "X": {}}, "X": "X", "y": "y"}
    spec |= {"storage": {"backend": "npz-lazy", "path": str(tmp_path / "t.npz")}}  # type: ignore[dict-item]  # a mapping
    with kd.load_dataset(spec) as dataset:
        text = Page(dataset_html(dataset)).text
    assert text.count("99") >= 2 and "not known:" in text


def test_an_existing_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        mixed().report(path)
    assert path.read_text() == "mine"
    assert "Provenance" in written(mixed(), path, overwrite=True)
    with pytest.raises(StoreWriteError, match="there is no folder"):
        mixed().report(tmp_path / "none" / "r.html")


def test_nothing_is_read_or_written_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    monkeypatch.setattr(page, "dataset_html", None)
    with pytest.raises(PluginLoadError, match="needs matplotlib: pip install"):
        mixed().report(tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_a_view_has_a_report_of_its_own_rows(tmp_path: Path) -> None:
    text = Page(written(mixed().split("test"), tmp_path / "r.html").partition(">")[2]).text
    assert "rows 1" in text and mixed().split("test").fingerprint() in text
