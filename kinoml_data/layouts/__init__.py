"""How columns are laid out as arrays, regardless of what stores the arrays, and the checksums of their rows."""
