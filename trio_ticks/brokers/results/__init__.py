"""Places for the results of all workers: a stream of Redis, a topic of Kafka.

Each is given as ``results=`` to :func:`~trio_ticks.open_pipeline`.
"""
