"""Controllers that sample the queue: pressure, throttling, the size of the pool."""
