"""The command `kinoml-data`."""
