"""What buffers between processes promise, shown with real processes and real servers.

``python -m tests.soak_brokers`` kills, stops and restarts workers and servers under
load, and judges by tick: see ``scenes`` for what is done, and ``judge`` for how.
"""
