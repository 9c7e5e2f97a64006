"""What a plugin author implements: backends, featurizers, observation models, collate forms."""
