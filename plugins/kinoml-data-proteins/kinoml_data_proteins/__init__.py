"""The plugin `kinoml-data-proteins`: featurizers for sequences of amino acids."""

from kinoml_data import Featurizer, hookimpl

from kinoml_data_proteins.featurizers import AMINO_ACIDS, AminoAcidComposition, OneHotSequence

__all__ = ["AMINO_ACIDS", "AminoAcidComposition", "OneHotSequence", "register_featurizers"]


@hookimpl
def register_featurizers() -> tuple[type[Featurizer], ...]:
    """The featurizers of this plugin."""
    return OneHotSequence, AminoAcidComposition
