"""How batches reach a training loop: loaders, samplers, prefetching, shared memory."""
