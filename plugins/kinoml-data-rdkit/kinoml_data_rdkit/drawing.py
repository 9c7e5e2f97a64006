"""The drawing of molecules for `kinoml-data report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinoml_data.plugin import Drawing

ATOMS = 6  # names such as CN and ids such as C1 are SMILES of fewer atoms


class Molecule(Drawing):
    """The structural formulas of columns of SMILES."""

    name = "molecule"

    def draws(self, texts: Sequence[str]) -> bool:
        """True if nearly all texts are SMILES, of at least six atoms on average."""
        molecules = [molecule for text in texts if (molecule := _parsed(text)) is not None]
        atoms = sum(molecule.GetNumHeavyAtoms() for molecule in molecules)
        return len(molecules) >= 0.9 * len(texts) and atoms >= ATOMS * len(molecules) > 0

    def svg(self, text: str) -> str:
        """The structural formula of a SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        from rdkit.Chem.Draw import rdMolDraw2D

        if (molecule := _parsed(text)) is None:
            raise ValueError(f"RDKit cannot read {text!r}")
        drawer: Any = rdMolDraw2D.MolDraw2DSVG(240, 160)
        drawer.drawOptions().clearBackground = False
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
        drawer.FinishDrawing()
        svg: str = drawer.GetDrawingText()
        return svg


def _parsed(text: str) -> Any:
    """The molecule of a SMILES; None if RDKit cannot read it, which is not logged."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(text)
