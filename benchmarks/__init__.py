"""Beside the line: how fast it is, how much memory it takes, how late a finding comes.

`python -m benchmarks` prints figures and asserts none; docs/benchmarks.md says how to read them.
"""
