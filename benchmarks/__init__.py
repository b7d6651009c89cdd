"""Benchmarks of felid against the tools it replaces; `python -m benchmarks.run`."""
