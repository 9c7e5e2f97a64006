"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value in the spec, such as storage.backend=in-memory; repeatable."
    ),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="Only this dataset of a file with `datasets`.")
]
DataOrSpec = Annotated[str, typer.Argument(metavar="PATH", help="A data file, or a spec (.yaml, .json, .toml).")]
