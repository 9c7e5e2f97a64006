"""Featurizers for SMILES, computed by RDKit: fingerprints, descriptors, one-hot SMILES and molecular graphs.

RDKit is imported when the first row is featurized, not when this module is imported: the import takes a while, and a
process that only reads features does not need it. Only `rdkit-descriptors` imports it earlier, as RDKit determines how
many descriptors there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from kinoml_data.errors import unknown
from kinoml_data.plugin import Array, Featurizer
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

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

KINOML_ALPHABET: tuple[str, ...] = (
    *"BCFHIKNOPSUVWY",  # atoms
    *"acegilnosru",  # aromatic atoms, and second letters of elements
    *"-=#",
    *"1234567890",
    *".*",
    *"()",
    *"/+@:[]%\\",
    *("Cl", "Br", "@@"),  # which KinoML writes as L, R and $
)
"""The 53 symbols of KinoML's one-hot SMILES, in the order of its rows.

Source: `OneHotSMILESFeaturizer.ALPHABET` in `kinoml/features/ligand.py` of https://github.com/openkinome/kinoml.
"""

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

BOND_FEATURES: tuple[str, ...] = (
    *("type=SINGLE", "type=DOUBLE", "type=TRIPLE", "type=AROMATIC", "type=other"),
    *("stereo=NONE", "stereo=E", "stereo=Z", "stereo=other"),
    *("conjugated=True", "ring=True"),
)
"""The meaning of each column of `bonds`, in order; `MolecularGraph` explains them."""

_COLUMN = {name: column for column, name in enumerate(ATOM_FEATURES)}
_BOND_COLUMN = {name: column for column, name in enumerate(BOND_FEATURES)}
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
        bits = _generator(self.radius, self.nbits).GetFingerprintAsNumPy(molecule_of(smiles))
        return (np.packbits(bits) if self.packbits else bits,)


class OneHotSmiles(Featurizer):
    """The SMILES as it is written: a column per symbol of the SMILES, a row per symbol of `SMILES_ALPHABET`.

    The output is `one_hot`, uint8 `(53, L)` for a SMILES of L symbols. Elements of two letters and `@@` are one symbol.
    The alphabet covers the elements of drug-like molecules and of their salts. A model that was trained on KinoML's
    features needs KinoML's alphabet, whose symbols and order differ.

    Attributes:
        canonical: encodes RDKit's canonical SMILES of the molecule instead.
        alphabet: the symbols in the order of the rows, or "kinoml" for `KINOML_ALPHABET`. A SMILES is then read from
            left to right, and the longest symbol that fits is taken.
    """

    name = "one-hot-smiles"
    inputs = ("smiles",)

    canonical: bool = False
    alphabet: Literal["kinoml"] | tuple[Annotated[str, Field(min_length=1)], ...] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the alphabet, in the order of the rows."""
        if self.alphabet is None:
            return SMILES_ALPHABET
        return KINOML_ALPHABET if self.alphabet == "kinoml" else tuple(self.alphabet)

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"one_hot": Array("uint8", (len(self.symbols), None))}

    @model_validator(mode="after")
    def _different(self) -> OneHotSmiles:
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise ValueError("alphabet must be a list of different symbols")
        return self

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The one-hot matrix of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES, or a symbol is not in the alphabet.
        """
        (smiles,) = raw
        molecule = molecule_of(smiles)
        if self.canonical:
            from rdkit import Chem

            smiles = Chem.MolToSmiles(molecule)
        row_of, pattern = _alphabet(self.symbols)
        symbols = smiles_symbols(smiles) if self.alphabet is None else pattern.findall(smiles)
        if strange := [i for i, symbol in enumerate(symbols) if symbol not in row_of]:
            first, position = symbols[strange[0]], len("".join(symbols[: strange[0]]))
            raise ValueError(f"{first!r} at position {position} of {smiles!r} is not in the alphabet")
        one_hot = np.zeros((len(row_of), len(symbols)), np.uint8)
        one_hot[[row_of[symbol] for symbol in symbols], np.arange(len(symbols))] = 1
        return (one_hot,)


class RdkitDescriptors(Featurizer):
    """The two-dimensional descriptors of RDKit, such as the molecular weight and the logP.

    The output is `descriptors`, float64 `(n,)`, in the order of `descriptor_names`. By default these are all in RDKit's
    `Descriptors.descList` but Ipc, which is not bounded, and AvgIpc, which for large molecules depends on the number of
    threads that numpy uses. The list differs between versions of RDKit: name the descriptors if the features have to
    stay the same.

    Attributes:
        names: the descriptors to compute, by RDKit's names.
        missing: "nan" gives NaN for a descriptor that cannot be computed; by default, it is an error.
    """

    name = "rdkit-descriptors"
    inputs = ("smiles",)

    names: tuple[str, ...] | None = None
    missing: Literal["nan"] | None = None

    @property
    def descriptor_names(self) -> tuple[str, ...]:
        """The names of the descriptors, in the order of the output."""
        return (
            tuple(name for name in _descriptors() if name not in ("Ipc", "AvgIpc"))
            if self.names is None
            else self.names
        )

    @property
    def outputs(self) -> Mapping[str, Array]:
        return {"descriptors": Array("float64", (len(self.descriptor_names),))}

    @field_validator("names", mode="after")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in _descriptors():
                raise ValueError(unknown(name, list(_descriptors()), "descriptor"))
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError("names must be a list of different descriptors")
        return names

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The descriptors of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES, or a descriptor is not a finite number.
        """
        (smiles,) = raw
        molecule = molecule_of(smiles)
        values = np.array([_descriptors()[name](molecule) for name in self.descriptor_names], np.float64)
        wrong = ~np.isfinite(values)
        if wrong.any() and self.missing is None:
            name = self.descriptor_names[int(wrong.argmax())]
            raise ValueError(
                f"the descriptor {name} of {smiles!r} is {values[wrong][0]}; leave it out of `names`, or use "
                "`missing: nan`"
            )
        values[wrong] = np.nan
        return (values,)


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

    `aromatic=True` and `ring=True` are columns of their own. Chirality has no features.

    With `bonds`, there is a third output, `bonds`, uint8 `(E, 11)`: a row for each column of `edge_index`, in the same
    order, so that both directions of a bond have the same features. `BOND_FEATURES` names its columns. In each of the
    groups type and stereo exactly one column is 1; `conjugated=True` and `ring=True` are columns of their own.

    Attributes:
        hydrogens: makes every hydrogen an atom of the graph.
        bonds: also gives features of the bonds.
    """

    name = "molecular-graph"
    inputs = ("smiles",)

    hydrogens: bool = False
    bonds: bool = False

    @property
    def outputs(self) -> Mapping[str, Array]:
        found = {"edge_index": Array("int64", (2, None)), "atoms": Array("uint8", (None, N_ATOM_FEATURES))}
        return found | ({"bonds": Array("uint8", (None, len(BOND_FEATURES)))} if self.bonds else {})

    def featurize(self, *raw: Any) -> tuple[NDArray[Any], ...]:
        """The graph of one SMILES.

        Raises:
            ValueError: RDKit cannot read the SMILES.
        """
        (smiles,) = raw
        molecule = molecule_of(smiles)
        if self.hydrogens:
            from rdkit import Chem

            molecule = Chem.AddHs(molecule)
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
        forward = np.array(bonds, np.int64).reshape(-1, 2)
        both = np.stack([forward, forward[:, ::-1]], axis=1).reshape(-1, 2)
        atoms = np.zeros((molecule.GetNumAtoms(), N_ATOM_FEATURES), np.uint8)
        for row, atom in zip(atoms, molecule.GetAtoms(), strict=True):
            row[_columns(atom)] = 1
        edge_index = np.ascontiguousarray(both.T)
        if not self.bonds:
            return edge_index, atoms
        features = np.zeros((len(bonds), len(BOND_FEATURES)), np.uint8)
        for row, bond in zip(features, molecule.GetBonds(), strict=True):
            row[_bond_columns(bond)] = 1
        return edge_index, atoms, np.repeat(features, 2, axis=0)


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
def _alphabet(symbols: tuple[str, ...]) -> tuple[dict[str, int], re.Pattern[str]]:
    """The row of each symbol, and a pattern that splits a text into the longest symbols, and other characters."""
    longest_first = sorted(symbols, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)
    return {symbol: row for row, symbol in enumerate(symbols)}, pattern


@cache
def _descriptors() -> dict[str, Any]:
    from rdkit.Chem import Descriptors

    return dict(Descriptors.descList)


@cache
def _generator(radius: int, nbits: int) -> Any:
    # The generator belongs to the process, not to the featurizer, so that the featurizer can be pickled.
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=nbits)


def molecule_of(smiles: str) -> Any:
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


def _bond_columns(bond: Any) -> list[int]:
    """The columns of `BOND_FEATURES` that are 1 for a bond."""
    stereo = bond.GetStereo().name.removeprefix("STEREO")
    groups = {"type": bond.GetBondType().name, "stereo": {"TRANS": "E", "CIS": "Z"}.get(stereo, stereo)}
    columns = [_BOND_COLUMN.get(f"{g}={value}", _BOND_COLUMN[f"{g}=other"]) for g, value in groups.items()]
    flags = {"conjugated=True": bond.GetIsConjugated(), "ring=True": bond.IsInRing()}
    return columns + [_BOND_COLUMN[name] for name, flag in flags.items() if flag]
