"""Ten minutes on a machine with a GPU: `python -m benchmarks.gpu`.

command    options, the order of the parts, the time that each may take
context    the run that all parts belong to, and what a part reports
steps      parts without figures: machine, build, every op once, compiling ahead, sanitizer
figures    parts that measure: benchmark, kernels alone, steps of learning
suite      the tests, in several processes (plugin is what they load)
process    a command with a time limit
summary    the table that is printed last
programs/  run in processes of their own
"""
