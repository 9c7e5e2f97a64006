"""The code blocks of the pages of the manual, and how they are run."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from kinoml_data.cli.main import main

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text and the line it begins on."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def run(page: Path, names: dict[str, Any], skip: Callable[[Block], bool] = lambda block: False) -> None:
    """Run the blocks of a page in the working directory, in order.

    A spec that begins with `# name.yaml` is saved under that name. Python blocks run in the namespace `names`. A block
    of the language `output` is what the block in front of it prints, warnings and errors included, apart from line
    breaks and the path of the working directory, which is `/data`. Shell blocks run only if such a block follows.
    """
    page_blocks = [block for block in blocks(page) if not skip(block)]
    for block, following in itertools.zip_longest(page_blocks, page_blocks[1:], fillvalue=Block("", "", 0)):
        if block.language == "yaml" and (name := re.match(r"# ([\w.-]+\.yaml)\n", block.text)):
            Path(name[1]).write_text(block.text, "utf-8")
        if following.language == "output":
            printed = _printed(block, page, names).replace(str(Path.cwd()), "/data")
            shown = f"{page.name}, line {following.line}: the block prints\n{printed}"
            assert printed.split() == following.text.split(), shown
        elif block.language == "python":
            _execute(block, page, names)


def _execute(block: Block, page: Path, names: dict[str, Any]) -> None:
    source = "\n" * (block.line - 1) + block.text  # so that a traceback shows the line of the page
    exec(compile(source, str(page), "exec", dont_inherit=True), names)


def _printed(block: Block, page: Path, names: dict[str, Any]) -> str:
    with redirect_stdout(StringIO()) as out, redirect_stderr(out), warnings.catch_warnings():
        if block.language == "python":
            warnings.simplefilter("always")
            # `showwarning` has more parameters, which the manual does not show.
            warnings.showwarning = lambda message, category, *_: print(f"{category.__name__}: {message}")  # type: ignore[assignment]
            _execute(block, page, names)
        else:
            assert block.language == "sh", f"{page.name}, line {block.line}: only Python and shell blocks print"
            warnings.simplefilter("always")
            for line in block.text.splitlines():
                with suppress(SystemExit):  # an error is shown as well
                    main(line.removeprefix("kinoml-data ").split())
    return out.getvalue()
