"""How columns are laid out as arrays, whatever stores the arrays; their checksums."""
