"""Benchmarks: this library against the classic pipelines, side by side on the same wire. ``python -m tests.benchmarks --help``."""
