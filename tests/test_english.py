"""The manual, docstrings and error messages contain none of the phrases that plain English rules out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = [*ROOT.glob("kinoml_data/**/*.py"), *ROOT.glob("plugins/*/kinoml_data_*/**/*.py")]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/**/*.md")]
PHRASES = {  # each with the phrase to write instead
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less|fewer)\w": "is not a valid X",
    r"\b(holds?|held|holding)\b": "contains, or keeps",
    r"\b(spec|columns?|names?|attributes?|options?|fields?|index|dtype|shape|keys?|entry|nothing) says?\b": "specifies",
    r"\bstands?\b(?! (for|out|alone)\b)": "is",
    r"\bwhere ((it|they|this|that|the \w+) (is|are|was|do|does|has|have) (not|no)|no|not|nothing)\b": "if",
    r"\bwhere (needed|possible|there (is|are) no)\b": "if",
    r"\bwhat (is|are) no\b": "a clause with a head",
    r"\bas (its|their|the) names?\b": "the condition",
    r"\bfor want of\b|\bsuch a one\b|\bwhereof\b|\bthereof\b": "if there is no, one, of which",
    r"\bshare 1 (values|rows)\b": "count_of",
}


def texts_of_code(file: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and other literals that contain a space, with the line on which each begins."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def texts_of_page(page: Path) -> Iterator[tuple[int, str]]:
    """The text of a page apart from its code."""
    code = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
    yield 1, code.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))


def phrases_in(texts: Iterator[tuple[int, str]]) -> list[str]:
    return [
        f"line {line + text.count(chr(10), 0, match.start())}: {match[0]!r}; write {instead!r}"
        for line, text in texts
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


def test_no_text_contains_a_phrase_that_is_ruled_out() -> None:
    assert len(CODE) > 100 and len(PAGES) > 20
    found = {file: phrases_in(texts_of_code(file)) for file in CODE}
    found |= {page: phrases_in(texts_of_page(page)) for page in PAGES}
    assert {str(file.relative_to(ROOT)): phrases for file, phrases in found.items() if phrases} == {}


def test_the_phrases_are_found() -> None:
    text = "This is no list,\nwhere possible; it holds what the column says."
    lines = [phrase.partition(":")[0] for phrase in phrases_in(iter([(7, text)]))]
    assert sorted(lines) == ["line 7", "line 8", "line 8", "line 8"]
