"""Measures the engine against its peers and against the machine's own limit: `mclnf-fast bench`.

cases/     what is measured, as data: shapes, peers, and the bars that a result must reach
work/      one file per problem: its tensors, what we do with them, the float64 truth, the operations counted
peers/     one file per peer: the same problem by other means
runner     one case: correctness first, then timing (timing, limit), memory, and the bars
table, plot, machine       what comes out
device, rates              the clock and the limits of a GPU
gpu/       build, tests, sanitizer and benchmark on a GPU machine, in ten minutes
"""
