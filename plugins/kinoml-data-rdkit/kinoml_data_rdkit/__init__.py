"""The plugin `kinoml-data-rdkit`: featurizers for SMILES, computed by RDKit, and drawings of molecules."""

from kinoml_data import Drawing, Featurizer, hookimpl

from kinoml_data_rdkit.drawing import Molecule
from kinoml_data_rdkit.featurizers import (
    ATOM_FEATURES,
    BOND_FEATURES,
    KINOML_ALPHABET,
    N_ATOM_FEATURES,
    SMILES_ALPHABET,
    MolecularGraph,
    MorganFingerprint,
    OneHotSmiles,
    RdkitDescriptors,
    smiles_symbols,
)
from kinoml_data_rdkit.identities import InchiKey, MurckoScaffold
from kinoml_data_rdkit.molecules import chembl_demo

__all__ = [
    "ATOM_FEATURES",
    "BOND_FEATURES",
    "KINOML_ALPHABET",
    "N_ATOM_FEATURES",
    "SMILES_ALPHABET",
    "InchiKey",
    "MolecularGraph",
    "Molecule",
    "MorganFingerprint",
    "MurckoScaffold",
    "OneHotSmiles",
    "RdkitDescriptors",
    "chembl_demo",
    "register_drawings",
    "register_featurizers",
    "smiles_symbols",
]


@hookimpl
def register_featurizers() -> tuple[type[Featurizer], ...]:
    """The featurizers of this plugin."""
    return MorganFingerprint, RdkitDescriptors, OneHotSmiles, MolecularGraph, MurckoScaffold, InchiKey


@hookimpl
def register_drawings() -> tuple[type[Drawing], ...]:
    """The drawings of this plugin."""
    return (Molecule,)
