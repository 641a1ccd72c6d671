"""Deliberate bugs, each of which the tests that reach its lines have to find.

``python -m tests.mutants`` plants them one by one into a copy of the project, where
ticks could be lost, doubled, reordered or stuck, and runs the tests that are named with
each. ``running`` says when a bug counts as found.
"""
