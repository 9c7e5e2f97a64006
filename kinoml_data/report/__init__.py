"""What `kinoml-data report` writes: one page of HTML about a dataset."""
