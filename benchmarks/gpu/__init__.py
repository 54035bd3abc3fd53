"""Build, tests, sanitizer and benchmark on a machine with a GPU, within ten minutes: `python -m benchmarks.gpu`.

command    options, the order of the parts, the time that each may take
steps      the parts: machine, build, tests, sanitizer, benchmark
suite      the tests, in several processes (plugin is what they load)
process    a command with a time limit
summary    the table that is printed last
look, small      run in processes of their own: what is there; every op once, small
"""
