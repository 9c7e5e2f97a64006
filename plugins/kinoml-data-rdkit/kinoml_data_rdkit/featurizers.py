"""Featurizers for SMILES, computed by RDKit: `morgan-fingerprint`, `one-hot-smiles` and `molecular-graph`.

RDKit is imported when the first row is featurized, not when this module is imported: the import takes a while, and a
process that only reads features does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

import numpy as np
from kinoml_data.plugin import Array, Featurizer
from numpy.typing import NDArray
from pydantic import Field

SMILES_ALPHABET: tuple[str, ...] = (
    *("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "I"),
    *("Li", "Na", "K", "Mg", "Ca", "Zn"),  # metals of the salts of drugs
    *("b", "c", "n", "o", "p", "s", "se"),  # aromatic atoms
    *("-", "=", "#", ":", "/", "\\"),  # bonds; "-" is also the negative charge
    *("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "%"),  # rings, charges, counts of H, isotopes
    *("(", ")", "[", "]"),
    *("@", "@@", "+", "*", "."),
)
"""The 53 symbols of `one-hot-smiles`, in the order of its rows."""

ATOM_FEATURES: tuple[str, ...] = tuple(
    f"{group}={value}"
    for group, values in {
        "element": ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I", "other"),
        "degree": (0, 1, 2, 3, 4, 5, 6, "other"),
        "charge": (-2, -1, 0, 1, 2, "other"),
        "hydrogens": (0, 1, 2, 3, 4, "other"),
        "hybridization": ("SP", "SP2", "SP3", "SP3D", "SP3D2", "other"),
        "aromatic": (True,),
        "ring": (True,),
    }.items()
    for value in values
)
"""The meaning of each column of `atoms`, in order; `MolecularGraph` explains them."""

N_ATOM_FEATURES = len(ATOM_FEATURES)

_COLUMN = {name: column for column, name in enumerate(ATOM_FEATURES)}
_ROW = {symbol: row for row, symbol in enumerate(SMILES_ALPHABET)}
_SMILES = re.compile(r"[!-~]+")
_PART = re.compile(r"\[[^]]*]?|[^[]+")
_IN_BRACKETS = re.compile(r"[A-Z][a-z]|se|@@|.", re.DOTALL)
_OUTSIDE = re.compile(r"Cl|Br|.", re.DOTALL)


class MorganFingerprint(Featurizer):
    """The circular neighbourhoods of atoms that occur in a molecule, hashed to a number of bits.

    The output is `fingerprint`, uint8 `(nbits,)` of 0 and 1, or `(ceil(nbits / 8),)` with `packbits`.

    Attributes:
        radius: the number of bonds that a neighbourhood reaches.
        nbits: the length of the fingerprint.
        packbits: stores eight bits per byte, like `numpy.packbits`; `packbits: true` in the spec unpacks them.
    """

    name = "morgan-fingerprint"
    inputs = ("smiles",)

    radius: Annotated[int, Field(ge=0)] = 2
    nbits: Annotated[int, Field(gt=0)] = 1024
    packbits: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"fingerprint": Array("uint8", (-(-self.nbits // 8) if self.packbits else self.nbits,))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The fingerprint of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        (smiles,) = raw
        bits = _generator(self.radius, self.nbits).GetFingerprintAsNumPy(_molecule(smiles))
        return (np.packbits(bits) if self.packbits else bits,)


class OneHotSmiles(Featurizer):
    """The SMILES as it is written: a column per symbol of the SMILES, a row per symbol of `SMILES_ALPHABET`.

    The output is `one_hot`, uint8 `(53, L)` for a SMILES of L symbols. Elements of two letters and `@@` are one symbol.
    The alphabet covers the elements of drug-like molecules and of their salts. Like KinoML's it has 53 symbols and
    treats Cl, Br and `@@` as one symbol each, but its symbols and their order differ: a model that was trained on
    KinoML's features does not work with these.

    Attributes:
        canonical: encodes RDKit's canonical SMILES of the molecule instead.
    """

    name = "one-hot-smiles"
    inputs = ("smiles",)

    canonical: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"one_hot": Array("uint8", (len(SMILES_ALPHABET), None))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The one-hot matrix of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES, or a symbol is not in the alphabet.
        """
        (smiles,) = raw
        molecule = _molecule(smiles)
        if self.canonical:
            from rdkit import Chem

            smiles = Chem.MolToSmiles(molecule)
        symbols = smiles_symbols(smiles)
        if unknown := [i for i, symbol in enumerate(symbols) if symbol not in _ROW]:
            first, position = symbols[unknown[0]], len("".join(symbols[: unknown[0]]))
            raise ValueError(f"{first!r} at position {position} of {smiles!r} is not in the alphabet")
        one_hot = np.zeros((len(SMILES_ALPHABET), len(symbols)), np.uint8)
        one_hot[[_ROW[symbol] for symbol in symbols], np.arange(len(symbols))] = 1
        return (one_hot,)


class MolecularGraph(Featurizer):
    """The atoms of a molecule and the bonds between them, for graph networks.

    The outputs are `edge_index`, int64 `(2, E)`, and `atoms`, uint8 `(N, 42)`. Atoms are in the order of the SMILES.
    Bonds are in RDKit's order, each in both directions one after the other, like the `edge_index` of PyTorch Geometric.

    `atoms` has `N_ATOM_FEATURES` (42) columns, which `ATOM_FEATURES` names. In each of five groups exactly one column
    is 1; it is "other" if no other one applies:

    - element;
    - degree: the number of neighbours in the graph;
    - charge: the formal charge;
    - hydrogens: all hydrogens at the atom, in the graph or not;
    - hybridization.

    `aromatic=True` and `ring=True` are columns of their own. Bonds and chirality have no features.

    Attributes:
        hydrogens: makes every hydrogen an atom of the graph.
    """

    name = "molecular-graph"
    inputs = ("smiles",)

    hydrogens: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"edge_index": Array("int64", (2, None)), "atoms": Array("uint8", (None, N_ATOM_FEATURES))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The graph of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        (smiles,) = raw
        molecule = _molecule(smiles)
        if self.hydrogens:
            from rdkit import Chem

            molecule = Chem.AddHs(molecule)
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
        forward = np.array(bonds, np.int64).reshape(-1, 2)
        both = np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, 2)
        atoms = np.zeros((molecule.GetNumAtoms(), N_ATOM_FEATURES), np.uint8)
        for row, atom in zip(atoms, molecule.GetAtoms(), strict=True):
            row[_columns(atom)] = 1
        return np.ascontiguousarray(both.T), atoms


def smiles_symbols(smiles: str) -> list[str]:
    """The symbols of a SMILES. Joined together, they are the SMILES again.

    Inside brackets, every element of two letters is one symbol. Outside brackets, only Cl and Br are single symbols:
    there, `Sc` is a sulfur followed by an aromatic carbon.
    """
    return [
        symbol
        for part in _PART.findall(smiles)
        for symbol in (_IN_BRACKETS if part[0] == "[" else _OUTSIDE).findall(part)
    ]


@cache
def _generator(radius: int, nbits: int) -> Any:
    # The generator belongs to the process, not to the featurizer, so that the featurizer can be pickled.
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=nbits)


def _molecule(smiles: str) -> Any:
    """The molecule of a SMILES.

    Raises:
        ValueError: the SMILES is empty, contains more than a SMILES, or cannot be read by RDKit; with RDKit's reason.
    """
    from rdkit import Chem, rdBase

    # RDKit reads "CC\u00d6" as "CC", and takes the text after a blank for a name.
    if not _SMILES.fullmatch(smiles):
        raise ValueError(f"{smiles!r} is not a valid SMILES: it is empty, or contains blanks or non-ASCII characters")
    with rdBase.BlockLogs():  # RDKit would print the reason; afterwards it logs as before
        molecule: Any = Chem.MolFromSmiles(smiles)
        if molecule is None:
            raise ValueError(f"RDKit cannot read the SMILES {smiles!r}: {_problem(smiles)}")
    return molecule


def _problem(smiles: str) -> str:
    from rdkit import Chem

    molecule: Any = Chem.MolFromSmiles(smiles, sanitize=False)
    problems = () if molecule is None else Chem.DetectChemistryProblems(molecule)
    return "; ".join(problem.Message() for problem in problems) or "its syntax is wrong"


def _columns(atom: Any) -> list[int]:
    """The columns of `ATOM_FEATURES` that are 1 for an atom."""
    groups = {
        "element": atom.GetSymbol(),
        "degree": atom.GetDegree(),
        "charge": atom.GetFormalCharge(),
        "hydrogens": atom.GetTotalNumHs(includeNeighbors=True),
        "hybridization": atom.GetHybridization().name,
    }
    columns = [_COLUMN.get(f"{group}={value}", _COLUMN[f"{group}=other"]) for group, value in groups.items()]
    flags = {"aromatic=True": atom.GetIsAromatic(), "ring=True": atom.IsInRing()}
    return columns + [_COLUMN[name] for name, flag in flags.items() if flag]
