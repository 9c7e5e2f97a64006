"""The classes that the author of a plugin implements: backends, featurizers, observation models, collate forms."""
