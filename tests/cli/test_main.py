"""The command `kinoml-data`, run in this process; in a new one to see what it imports and prints there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kinoml_data as kd
from kinoml_data.cli import main as cli
from kinoml_data.cli.json_schema import json_schema
from tests.cli.conftest import Outcome, Run, install
from tests.slow_features import install_plugin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ragged dataset as NPZ, `ligands.npz`, with a spec `ligands.yaml`, and a bare `bare.npz`."""
    rng = np.random.default_rng(0)
    data = {
        "one_hot": [rng.integers(0, 2, (53, length), np.uint8) for length in (7, 30, 12, 12)],
        "bits": rng.integers(0, 256, (4, 2), np.uint8),
        "id": ["a", "bb", "ccc", "d"],
        "pIC50": np.array([4.5, 5, 6, 7]),
    }
    spec = {
        "name": "ligands",
        "columns": {
            "one_hot": {"dtype": "float32", "shape": [53, "*"]},
            "bits": {"dtype": "float32", "shape": [16], "packbits": True},
            "id": {"dtype": "str"},
            "pIC50": {"dtype": "float32"},
        },
        "X": ["one_hot", "bits"],
        "y": "pIC50",
        "meta": ["id"],
        "storage": {"backend": "in-memory"},
        "splits": {"train": {"rows": [3, 0]}, "test": {"rows": [2]}},
        "observation_model": {"name": "pIC50", "substrate_conc": 1e-6},
        "collate": {"one_hot": "pad-mask"},
    }
    kd.save_dataset(kd.load_dataset(spec, data=data), tmp_path / "ligands.npz").to_file(tmp_path / "ligands.yaml")
    np.savez(tmp_path / "bare.npz", X=np.zeros((5, 3)), y=np.arange(5.0))
    return tmp_path


def block(outcome: Outcome) -> list[str]:
    """The lines of an error: one block on stderr, exit code 1, no traceback."""
    assert outcome.code == 1 and outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[0].startswith("kinoml-data: ") and lines[-1] == "  (--debug shows the traceback)"
    assert all(line.startswith("  ") for line in lines[1:])
    assert "Traceback" not in outcome.err
    return lines[:-1]


# -- inspect


def test_inspect_shows_columns_shapes_and_splits(run: Run, folder: Path) -> None:
    done = run("inspect", folder / "ligands.yaml")
    assert done.code == 0 and done.err == ""
    facts, _, table = done.out.partition("\n\n")
    said = dict(line.split("   ", 1) for line in facts.splitlines())
    said = {key: value.strip() for key, value in said.items()}
    assert said["dataset"] == "ligands" and said["rows"] == "4"
    assert said["backend"] == "npz-lazy (path: ligands.npz)"
    assert said["stored"].startswith(str(folder / "ligands.npz"))
    assert said["in memory"] == "3.3 kB"
    assert said["a batch of 128"].endswith(" of X and y")
    assert said["splits"] == "train 2, test 1; 1 row in none"
    assert said["observation model"].startswith("pIC50 (substrate_conc: 1e-06")
    assert said["collate"] == "{one_hot: pad-mask}"
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["column"] == ["role", "dtype", "stored", "as", "shape", "first", "values", "range", "bytes"]
    assert rows["one_hot"][:5] == ["X", "float32", "uint8", "(53,", "7-30)"] and rows["one_hot"][-1] == f"{53 * 61:,}"
    assert rows["bits"][:6] == ["X", "float32", "uint8", "packed", "bits", "(16)"] and rows["bits"][-1] == "8"
    assert rows["id"][:4] == ["meta", "str", "1-3", "bytes"] and rows["id"][-1] == "7"
    assert rows["pIC50"][:3] == ["y", "float32", "float64"] and rows["pIC50"][-1] == "32"


def test_inspect_of_a_bare_file_and_of_another_backend_over_it(run: Run, folder: Path) -> None:
    done = run("inspect", folder / "bare.npz")
    assert "splits              none" in done.out and "observation model   identity" in done.out
    spec = kd.load_dataset(folder / "ligands.npz", backend="in-memory").spec
    spec.to_file(folder / "memory.json")
    done = run("inspect", folder / "memory.json")
    assert "in-memory over npz-lazy (path: ligands.npz)" in done.out and "(53, 7-30)" in done.out


def test_output_that_is_not_a_terminal_is_not_cut_off(run: Run, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    deep = folder / ("very-long-name-" * 10)
    deep.mkdir()
    (folder / "bare.npz").rename(deep / "bare.npz")
    done = run("inspect", deep / "bare.npz")
    assert str(deep / "bare.npz") in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())


# -- convert


def test_convert_copies_columns_and_splits(run: Run, folder: Path) -> None:
    done = run("convert", folder / "ligands.yaml", folder / "copy.parquet")
    assert done.code == 0 and "4 rows, 4 columns" in done.out and "parquet-awkward" in done.out
    one, two = kd.load_dataset(folder / "ligands.yaml"), kd.load_dataset(folder / "copy.parquet")
    for name in ("one_hot", "bits", "pIC50"):
        a, b = one.column(name), two.column(name)
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    assert two.column("id") == ["a", "bb", "ccc", "d"]
    assert {k: v.tolist() for k, v in two.indices.items()} == {"train": [3, 0], "test": [2]}


def test_convert_overwrites_only_with_its_option(run: Run, folder: Path) -> None:
    lines = block(run("convert", folder / "ligands.npz", folder / "bare.npz"))
    assert lines[0] == "kinoml-data: StoreExistsError" and "--overwrite on the command line" in lines[1]
    assert run("convert", folder / "ligands.npz", folder / "bare.npz", "--overwrite").code == 0
    assert kd.load_dataset(folder / "bare.npz").spec.name == "ligands"


def test_convert_leaves_out_rows_that_fail_and_logs_its_progress(run: Run, folder: Path, site: Path) -> None:
    install_plugin(site)
    (folder / "t.csv").write_text("id,v,y\na,C,1\nb,N!,2\nc,O,3\nd,N!,4\n")
    featurizer = "{name: letters, inputs: [v]}"
    spec = f"{{backend: featurize-on-access, source: {{backend: csv, path: t.csv}}, featurizer: {featurizer}}}"
    (folder / "t.yaml").write_text(f"storage: {spec}\nX: letters\ny: y\nmeta: [id]\n")
    message = " ".join(block(run("convert", folder / "t.yaml", folder / "t.npz")))
    assert "failed for row 1: ValueError: N! is not a molecule (id 'b')" in message and "--failed FILE" in message
    assert not (folder / "t.npz").exists()
    options = ["--failed", folder / "failed.csv", "--log", folder / "log.txt", "--share", "y", "--workers", "1"]
    done = run("convert", folder / "t.yaml", folder / "t.npz", *options)
    assert done.code == 0 and "t.npz: 2 rows, without 2 rows listed in" in done.out
    lines = (folder / "failed.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "b"], ["3", "d"]]
    log = (folder / "log.txt").read_text()
    assert "featurizing, 1 failed, 3 of 3" in log and "copying, 2 of 2" in log
    assert not list(folder.glob(".*"))


def test_convert_writes_with_a_named_backend(run: Run, folder: Path) -> None:
    lines = block(run("convert", folder / "bare.npz", folder / "copy.xyz"))
    assert "--backend NAME" in lines[1]
    done = run("convert", folder / "bare.npz", folder / "copy.xyz", "--backend", "npz-reopen")
    assert done.code == 0 and (folder / "copy.xyz").is_file()
    assert "storage.path" in block(run("convert", folder / "bare.npz", "x", "--backend", "in-memory"))[1]


# -- check


def test_check_prints_ok_for_a_valid_spec(run: Run, folder: Path) -> None:
    done = run("check", folder / "ligands.yaml")
    assert done.code == 0 and done.out.startswith("OK  ") and "ligands: 4 rows" in done.out


def test_check_lists_all_problems_of_a_spec(run: Run, folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        "colums: {}\n"
        "columns: {a: {dtype: flaot32}, b: {packbit: true}}\n"
        "X: [a, b]\n"
        "storage: {backend: npz-lazy, path: ligands.npz}\n"
    )
    lines = block(run("check", folder / "bad.yaml"))
    assert lines[0] == "kinoml-data: SpecError"
    assert len(lines) == 4
    assert "columns.a.dtype: unknown dtype 'flaot32'; did you mean 'float32'?" in lines[1]
    assert "columns.b.packbit: unknown key 'packbit'; did you mean 'packbits'?" in lines[2]
    assert "colums: unknown key 'colums'; did you mean 'columns'?" in lines[3]


def test_check_lists_all_differences_from_the_store(run: Run, folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        "columns: {one_hot: {dtype: uint8, shape: [54, '*']}, pIC50: {shape: [2]}, nope: {dtype: int64}}\n"
        "X: [one_hot, pIC50, nope]\n"
        "storage: {backend: npz-lazy, path: ligands.npz}\n"
    )
    lines = block(run("check", folder / "bad.yaml"))
    text = "\n".join(lines)
    assert len(lines) == 4 and all(f"columns.{name}: " in text for name in ("one_hot", "pIC50", "nope"))


@pytest.mark.filterwarnings("default:.*integrity is unknown")
def test_a_store_without_checksums_is_unchecked_for_verify_and_a_warning_for_check(run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"X": [1.0, 2.0], "y": [3.0, 4.0]}), tmp_path / "foreign.parquet")
    done = run("check", tmp_path / "foreign.parquet")
    assert done.code == 0 and done.out.startswith("OK  ")
    (line,) = done.err.splitlines()
    assert line.startswith("kinoml-data: ") and "integrity is unknown" in line
    done = run("verify", tmp_path / "foreign.parquet")
    assert done.code == 0 and done.out.startswith("UNCHECKED  ") and "integrity unknown: " in done.out
    done = run("verify", tmp_path / "none.npz")
    assert done.code == 1


SEVERAL = '{"datasets": {"a": {"storage": {"path": "bare.npz"}}, "b": {"storage": {"path": "ligands.npz"}}}}'


@pytest.mark.parametrize("command", ["check", "verify", "inspect"])
def test_a_command_takes_each_dataset_of_a_file_or_one_by_name(run: Run, folder: Path, command: str) -> None:
    (folder / "several.json").write_text(SEVERAL)
    done = run(command, folder / "several.json")
    assert done.code == 0 and len(re.findall(r"^([ab]$|(OK|UNCHECKED)  [ab]:)", done.out, re.M)) == 2
    done = run(command, folder / "several.json", "--dataset", "b")
    assert done.code == 0 and len(re.findall(r"^([ab]$|(OK|UNCHECKED)  [ab]:)", done.out, re.M)) == 1
    assert "did you mean" in block(run(command, folder / "several.json", "--dataset", "bb"))[1]
    assert "describes a single dataset" in block(run(command, folder / "bare.npz", "--dataset", "b"))[1]


def test_several_datasets_are_converted_to_files_of_their_names(run: Run, folder: Path) -> None:
    (folder / "several.json").write_text(SEVERAL)
    message = block(run("convert", folder / "several.json", folder / "out.npz"))[1]
    assert "describes 2 datasets; write {name} in the target, such as '{name}.npz', or give --dataset NAME" in message
    assert run("convert", folder / "several.json", folder / "out-{name}.npz").code == 0
    assert len(kd.load_dataset(folder / "out-b.npz")) == 4
    assert run("convert", folder / "several.json", folder / "one.npz", "--dataset", "a").code == 0
    assert (folder / "one.npz").exists() and not (folder / "out.npz").exists()


TABLE = "id,smiles,mw,IC50,gap\n1,CCO,46.1,12,\n2,CCN,45.1,>10000,1\n"


def test_a_table_without_roles_is_inspected_checked_and_converted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    done = run("inspect", tmp_path / "t.csv")
    assert done.code == 0 and "1 number, and '>10000' in row 1" in done.out
    assert "row 0 (line 2): a value is missing" in done.out
    assert (
        "Neither the data nor a spec specifies X and y" in done.out
        and "load_dataset('t.csv', X=['id', 'mw']" in done.out
    )
    assert "'CCO', 'CCN'" in done.out and "45.1 to 46.1" in done.out
    done = run("check", tmp_path / "t.csv", "--set", "storage.missing=[x]")
    assert done.code == 1 and "a value is missing" in done.err
    done = run("convert", tmp_path / "t.csv", tmp_path / "t.npz")
    assert done.code == 1 and "a value is missing" in done.err
    assert f"`kinoml-data verify {tmp_path / 't.csv'}` lists every row that cannot be read" in done.err
    (tmp_path / "t.csv").write_text(TABLE.replace(",\n", ",0\n"))
    assert run("check", tmp_path / "t.csv").code == 0
    assert run("convert", tmp_path / "t.csv", tmp_path / "t.npz").code == 0
    assert kd.load_dataset(tmp_path / "t.npz", X="mw", meta="IC50").column("IC50") == ["12", ">10000"]


def test_what_is_whole_but_not_read_is_never_called_damaged(run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"x": [1.0, 2.0], "y": [1.0, None], "when": pa.array([1, 2], pa.timestamp("s"))})
    pq.write_table(table, tmp_path / "n.parquet")
    done = run("verify", tmp_path / "n.parquet")
    assert done.code == 1 and "DAMAGED" not in done.out
    assert re.search("NOT READ  column 'y', rows 0 to 1: SpecError: .* row 1: a value is missing", done.out)
    assert "not readable: when: " in done.out and "NOT READ, 2 values  " in done.out
    spec = "{columns: {x: {dtype: float64}}, X: x, storage: {backend: parquet-awkward, path: n.parquet}}"
    (tmp_path / "x.yaml").write_text(spec)
    done = run("verify", tmp_path / "x.yaml")
    assert done.code == 0 and "UNCHECKED" in done.out
    (tmp_path / "x.yaml").write_text(spec.replace("x:", "when:").replace("X: x", "X: when"))
    done = run("verify", tmp_path / "x.yaml")
    assert done.code == 1 and "kinoml-data: UnsupportedStoreError" in done.err and "DAMAGED" not in done.out


def test_a_copy_that_fails_at_a_row_names_the_command_that_lists_all_of_them(run: Run, folder: Path) -> None:
    data = bytearray((folder / "ligands.npz").read_bytes())
    spot = data.index(np.array([6.5]).tobytes()) if np.array([6.5]).tobytes() in data else len(data) // 3
    data[spot + 7] ^= 1
    (folder / "ligands.npz").write_bytes(data)
    done = run("convert", folder / "ligands.npz", folder / "copy.npz")
    assert done.code == 1 and f"`kinoml-data verify {folder / 'ligands.npz'}` lists every row" in done.err


def test_check_finds_damage_in_the_first_row(run: Run, folder: Path) -> None:
    data = bytearray((folder / "bare.npz").read_bytes())
    spot = data.index(np.arange(5.0).tobytes())
    data[spot + 9] ^= 1
    (folder / "bare.npz").write_bytes(data)
    assert block(run("check", folder / "bare.npz"))[0] == "kinoml-data: CorruptStoreError"


# -- errors


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (["inspect", "nope.npz"], "StoreNotFoundError", "nope.npz"),
        (["inspect", "nope.yaml"], "StoreNotFoundError", "nope.yaml"),
        (["check", "nope.txt"], "StoreNotFoundError", "nope.txt"),
        (["convert", "bare.npz", "no/such/folder/x.npz"], "StoreWriteError", "no/such/folder"),
        (["convert", "bare.npz", "x.npz", "--backend", "zar"], "UnknownNameError", "'zar'"),
        (["demo", "--out", "."], "Error", ""),
    ],
)
def test_an_error_is_printed_as_one_block(
    run: Run, folder: Path, monkeypatch: Any, arguments: list[str], error: str, text: str
) -> None:
    monkeypatch.chdir(folder)
    lines = block(run(*arguments))
    assert lines[0].endswith(error) and text in "\n".join(lines)


def test_debug_lets_an_error_through(folder: Path) -> None:
    for arguments in (["--debug", "inspect", "nope.npz"], ["inspect", "nope.npz", "--debug"]):
        with pytest.raises(kd.errors.StoreNotFoundError):
            cli.main(arguments)


def test_an_unexpected_error_asks_for_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, **options: Any) -> None:
        raise ZeroDivisionError("[bold]no markup[/bold] :smile:")

    monkeypatch.setattr("kinoml_data.factory.open_to_copy", fail)
    lines = block(run("inspect", "x.npz"))
    assert lines == [
        "kinoml-data: unexpected ZeroDivisionError, please report it",
        "  [bold]no markup[/bold] :smile:",
    ]


def test_an_invalid_command_line_exits_with_2(run: Run) -> None:
    for arguments in ([], ["inspekt"], ["convert", "one"], ["inspect", "x", "--sample", "-1"]):
        done = run(*arguments)
        assert done.code == 2 and "Traceback" not in done.err


def test_help_names_every_command(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    for command in ("demo", "inspect", "convert", "check", "verify", "backends", "schema", "--debug"):
        assert command in done.out
        if not command.startswith("-"):
            assert run(command, "--help").code == 0


# -- schema


def test_schema_is_json_on_stdout(run: Run) -> None:
    done = run("schema")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(json.dumps(json_schema()))


# -- plugins


BACKEND = """
from kinoml_data import Backend, hookimpl

class One(Backend):
    '''One row.

    More about it.
    '''
    name = "{name}"
    suffixes = (".one",)
    count: int = 1

    def open(self, columns):
        raise NotImplementedError

@hookimpl
def register_backends():
    return [One]
"""


def test_backends_lists_the_built_in_backends_and_what_each_can_do(run: Run) -> None:
    done = run("backends")
    assert done.code == 0
    for name in kd.list_backends():
        assert name in done.out
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert rows["name"] == ["from", "opens", "writes", "overwrites", "arrays", "spec", "fork", "description"]
    assert rows["npz-lazy"][:7] == ["built-in", ".npz", "yes", "yes", "yes", "yes", "yes"]
    assert rows["csv"][1:6] == [".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz"]
    assert rows["csv"][6:8] == ["no", "yes"]  # it does not write; it works after a fork
    assert "pIC50" not in rows


def test_backends_lists_plugins_broken_ones_and_conflicts(run: Run, site: Path) -> None:
    install(site, "good", "good", "p_good", BACKEND.format(name="one"), version="1.2")
    install(site, "broken", "broken", "p_broken", "import no_such_module_anywhere", version="1.2")
    install(site, "first", "first", "p_first", BACKEND.format(name="twice"))
    install(site, "second", "second", "p_second", BACKEND.format(name="twice"))
    done = run("backends")
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert any(line.split() == ["one", "good", "1.2", ".one", "no", "yes", "One", "row."] for line in lines)
    assert any(line.startswith("BROKEN  plugin 'broken' of broken 1.2: ModuleNotFoundError") for line in lines)
    twice = [line for line in lines if line.startswith("twice ")]
    assert len(twice) == 2 and all("CONFLICT" in line for line in twice)


def test_the_schema_contains_a_plugins_options_and_leaves_out_a_broken_plugin(run: Run, site: Path) -> None:
    install(site, "good", "good", "p_good", BACKEND.format(name="one"))
    install(site, "broken", "broken", "p_broken", "raise SystemExit(3)")
    done = run("schema")
    assert done.code == 0
    options = json.loads(done.out)["$defs"]["one"]["properties"]
    assert options["backend"]["const"] == "one" and options["count"]["default"] == 1


# -- a new process


@pytest.mark.slow
def test_debug_prints_a_traceback() -> None:
    command = [sys.executable, "-m", "kinoml_data", "inspect", "x.npz", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" in done.stderr and "StoreNotFoundError" in done.stderr


def test_listings_help_and_errors_about_arguments_do_not_import_torch() -> None:
    listings = [["--help"], ["backends"], ["plugins", "list"]]
    errors = [["inspekt"], ["inspect"], ["inspect", "x", "--sample", "-1"]]
    code = (
        "import json, sys\n"
        "from kinoml_data.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: print('exit code', end.code)\n"
        "    heavy = {'torch', 'pyarrow', 'awkward', 'matplotlib', 'rdkit'}\n"
        "    assert not heavy & set(sys.modules), (arguments, heavy & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(listings + errors)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == [*["exit code 0"] * 3, *["exit code 2"] * 3]
