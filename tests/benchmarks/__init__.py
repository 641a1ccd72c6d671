"""Benchmarks: this library and the classic pipelines, compared on the same wire.

``python -m tests.benchmarks --help`` lists what can be measured.
"""
