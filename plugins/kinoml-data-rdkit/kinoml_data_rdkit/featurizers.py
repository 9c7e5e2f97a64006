"""Featurizers for SMILES, computed by RDKit: `morgan-fingerprint`, `one-hot-smiles` and `molecular-graph`.

RDKit is imported when the first row is featurized, not with this module: that takes a while, and a
process that only reads features does not need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

import numpy as np
from kinoml_data import Array, Featurizer
from numpy.typing import NDArray
from pydantic import Field

SMILES_ALPHABET: tuple[str, ...] = (
    *("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "I"),
    *("Li", "Na", "K", "Mg", "Ca", "Zn"),  # the metals that drugs come as salts of
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
"""What the columns of `atoms` say, in their order; `molecular-graph` explains them."""

N_ATOM_FEATURES = len(ATOM_FEATURES)

_COLUMN = {name: column for column, name in enumerate(ATOM_FEATURES)}
_ROW = {symbol: row for row, symbol in enumerate(SMILES_ALPHABET)}
_SMILES = re.compile(r"[!-~]+")
_PART = re.compile(r"\[[^]]*]?|[^[]+")
_IN_BRACKETS = re.compile(r"[A-Z][a-z]|se|@@|.", re.DOTALL)
_OUTSIDE = re.compile(r"Cl|Br|.", re.DOTALL)


class MorganFingerprint(Featurizer):
    """`morgan-fingerprint`: which circular neighbourhoods of atoms occur, hashed to a number of bits.

    Attributes:
        radius: how many bonds a neighbourhood reaches.
        nbits: the length of the fingerprint.
        packed: eight bits to a byte, as `numpy.packbits` packs; `packbits: true` in the spec unpacks them.

    Output: `fingerprint`, uint8 `(nbits,)` of 0 and 1; packed `(ceil(nbits / 8),)`.
    """

    name = "morgan-fingerprint"
    inputs = ("smiles",)

    radius: Annotated[int, Field(ge=0)] = 2
    nbits: Annotated[int, Field(gt=0)] = 1024
    packed: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"fingerprint": Array("uint8", (-(-self.nbits // 8) if self.packed else self.nbits,))}

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The fingerprint of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        (smiles,) = raw
        bits = _generator(self.radius, self.nbits).GetFingerprintAsNumPy(_molecule(smiles))
        return (np.packbits(bits) if self.packed else bits,)


class OneHotSmiles(Featurizer):
    """`one-hot-smiles`: the SMILES as it is written, a column per symbol, a row per symbol of `SMILES_ALPHABET`.

    Elements of two letters and `@@` are one symbol. The alphabet covers the elements of drug-like
    molecules and of their salts. It has as many symbols as KinoML's, 53, and cuts Cl, Br and `@@` as
    KinoML does, but they are not the same symbols nor in the same order: a model trained on
    KinoML's does not fit.

    Attributes:
        canonical: encode RDKit's canonical SMILES of the molecule instead.

    Output: `one_hot`, uint8 `(53, L)`, L the number of symbols.
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
        if strange := [i for i, symbol in enumerate(symbols) if symbol not in _ROW]:
            first, position = symbols[strange[0]], len("".join(symbols[: strange[0]]))
            raise ValueError(f"{first!r} at position {position} of {smiles!r} is not in the alphabet")
        one_hot = np.zeros((len(SMILES_ALPHABET), len(symbols)), np.uint8)
        one_hot[[_ROW[symbol] for symbol in symbols], np.arange(len(symbols))] = 1
        return (one_hot,)


class MolecularGraph(Featurizer):
    """`molecular-graph`: atoms and the bonds between them, for graph networks.

    Atoms come in the order of the SMILES. Bonds come in RDKit's order, each in both directions, one
    after the other, as PyTorch Geometric has them in its `edge_index`.

    `atoms` has `N_ATOM_FEATURES` (42) columns, which `ATOM_FEATURES` names. In each of five groups
    exactly one column is 1, "other" where no other fits:

    - element;
    - degree: the number of neighbours in the graph;
    - charge: the formal charge;
    - hydrogens: all hydrogens at the atom, in the graph or not;
    - hybridization.

    `aromatic=True` and `ring=True` stand alone. There are no features of bonds, and none of chirality.

    Attributes:
        hydrogens: make every hydrogen an atom of the graph.

    Outputs: `edge_index`, int64 `(2, E)`; `atoms`, uint8 `(N, 42)`.
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
        there = np.array(bonds, np.int64).reshape(-1, 2)
        both = np.stack([there, there[:, ::-1]], axis=1).reshape(-1, 2)
        atoms = np.zeros((molecule.GetNumAtoms(), N_ATOM_FEATURES), np.uint8)
        for row, atom in zip(atoms, molecule.GetAtoms(), strict=True):
            row[_columns(atom)] = 1
        return np.ascontiguousarray(both.T), atoms


def smiles_symbols(smiles: str) -> list[str]:
    """The symbols a SMILES is written in; joined they are the SMILES again.

    Within brackets every element of two letters is one symbol; outside, where `Sc` is a sulfur and an
    aromatic carbon, only Cl and Br are.
    """
    return [
        symbol
        for part in _PART.findall(smiles)
        for symbol in (_IN_BRACKETS if part[0] == "[" else _OUTSIDE).findall(part)
    ]


@cache
def _generator(radius: int, nbits: int) -> Any:
    # Kept per process and outside the featurizer, which so remains an object that pickles.
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=nbits)


def _molecule(smiles: str) -> Any:
    """The molecule a SMILES stands for.

    Raises:
        ValueError: RDKit cannot read it, with the reason where RDKit knows one; it is empty; it is more than a SMILES.
    """
    from rdkit import Chem, rdBase

    # RDKit reads "CC\u00d6" as "CC", and takes what follows a blank for a name.
    if not _SMILES.fullmatch(smiles):
        raise ValueError(f"{smiles!r} is no SMILES: it is empty, or has blanks or characters outside ASCII")
    with rdBase.BlockLogs():  # RDKit would print the reason; its log is as it was afterwards
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
    return columns + [_COLUMN[name] for name, is_so in flags.items() if is_so]
