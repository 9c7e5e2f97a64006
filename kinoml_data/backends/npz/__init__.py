"""NPZ files: the backends `npz-lazy` and `npz-reopen`."""
