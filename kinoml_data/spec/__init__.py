"""What a dataset is: specs, their parts, and the files they are read from."""
