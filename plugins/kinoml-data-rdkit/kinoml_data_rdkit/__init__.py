"""The plugin `kinoml-data-rdkit`: featurizers for SMILES, computed by RDKit."""

from kinoml_data import Featurizer, hookimpl

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
    "MorganFingerprint",
    "MurckoScaffold",
    "OneHotSmiles",
    "RdkitDescriptors",
    "chembl_demo",
    "register_featurizers",
    "smiles_symbols",
]


@hookimpl
def register_featurizers() -> tuple[type[Featurizer], ...]:
    """The featurizers of this plugin."""
    return MorganFingerprint, RdkitDescriptors, OneHotSmiles, MolecularGraph, MurckoScaffold, InchiKey
