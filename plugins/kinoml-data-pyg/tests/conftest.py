"""PyTorch Geometric warns of torch's deprecations when it is imported; warnings are errors in our tests."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_geometric.data
    import torch_geometric.nn  # noqa: F401
