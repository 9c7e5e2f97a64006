"""Featurizers that compute texts from SMILES, by which molecules are grouped and compared: scaffolds and InChIKeys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinoml_data.plugin import STRING, Array, Featurizer

from kinoml_data_rdkit.featurizers import molecule_of


class MurckoScaffold(Featurizer):
    """The ring systems of a molecule and the chains between them, as canonical SMILES.

    The output is `scaffold`, a text, which is empty for a molecule without rings. Molecules that differ only in their
    side chains have one scaffold: `splits: {ratios: ..., by: scaffold}` keeps them together. Molecules without rings
    are kept together, too.

    Source: Bemis and Murcko, J. Med. Chem. 39, 2887 (1996), in RDKit's version, which keeps the first atom of a side
    chain if it has a double bond to the scaffold.

    Attributes:
        generic: True if all atoms become carbon and all bonds single, so that only the shape of the rings counts.
    """

    name = "murcko-scaffold"
    inputs = ("smiles",)
    generic: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"scaffold": Array(STRING)}

    def featurize(self, *raw: Any) -> tuple[str, ...]:
        """The scaffold of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        from rdkit import Chem
        from rdkit.Chem.Scaffolds import MurckoScaffold as module

        murcko: Any = module  # RDKit does not declare its types
        (smiles,) = raw
        molecule = molecule_of(smiles)
        Chem.RemoveStereochemistry(molecule)
        scaffold = murcko.GetScaffoldForMol(molecule)
        if self.generic:
            # Making it generic turns atoms with a double bond to the scaffold into side chains.
            scaffold = murcko.GetScaffoldForMol(murcko.MakeScaffoldGeneric(scaffold))
        return (Chem.MolToSmiles(scaffold),)


class InchiKey(Featurizer):
    """The InChIKey of a molecule, the same for every SMILES of it.

    The output is `inchikey`, a text of 27 characters. Its first 14 characters do not depend on stereochemistry and
    isotopes.

    Source: the InChI Trust, https://www.inchi-trust.org.

    Attributes:
        connectivity: True for the first 14 characters only.
    """

    name = "inchikey"
    inputs = ("smiles",)
    connectivity: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"inchikey": Array(STRING)}

    def featurize(self, *raw: Any) -> tuple[str, ...]:
        """The InChIKey of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES, or the molecule has no InChI.
        """
        from rdkit import Chem, rdBase

        (smiles,) = raw
        molecule = molecule_of(smiles)
        chem: Any = Chem
        with rdBase.BlockLogs():
            key = chem.MolToInchiKey(molecule)
        if not key:
            raise ValueError(f"the molecule {smiles!r} has no InChI")
        return (key[:14] if self.connectivity else key,)
