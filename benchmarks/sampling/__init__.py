"""The selectors of samples that `benchmarks.sampling_peers` compares, each from its publication."""
