"""Deterministic simulation: an exchange, a network with faults, and a whole pipeline.

All of it runs in one process on a clock that jumps, and a seed decides everything: what
the network does to which byte, what each handler does, when the user pauses, resizes or
cancels, and in which order trio runs the tasks. After every step of every task the law
of the ledger is checked, at the end each tick. A seed that fails is one line to repeat.

``python -m tests.simulation --seeds 10000`` tries as many; see ``world`` for what runs.
"""
