"""Calls the handler: the pool, its workers, and how they take their ticks."""
