"""The contract for the author of a drawing: from the texts of a column to pictures of what they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class Drawing(ABC):
    """Draws what the texts of a column stand for, such as molecules, for `kinoml-data report`.

    It is created without arguments. For example::

        class Swatch(Drawing):
            name = "swatch"

            def draws(self, texts):
                return all(text.startswith("#") and len(text) == 7 for text in texts)

            def svg(self, text):
                box = f'<rect width="150" height="100" fill="{text}"/>'
                return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 150 100">{box}</svg>'

    Attributes:
        name: the name that `kinoml-data plugins list` shows.
    """

    name: ClassVar[str]

    @abstractmethod
    def draws(self, texts: Sequence[str]) -> bool:
        """True if the texts of a column stand for something that this class draws.

        Args:
            texts: different texts of the column, at least one and none of them empty.
        """

    @abstractmethod
    def svg(self, text: str) -> str:
        """An SVG document, about three parts wide and two parts high, in dark colors on a transparent background.

        The report shows it as an image, in which no script runs, and inverts its lightness on a dark page. If this
        method raises an exception, the report shows the text alone.
        """
