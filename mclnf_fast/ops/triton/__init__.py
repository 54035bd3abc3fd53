"""The parts that all Triton kernels share: launch, tiles, encodings, layers and reductions."""
