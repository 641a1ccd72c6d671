"""Runs a feed, a channel and workers in one nursery: the pipeline."""

from .opening import open_pipeline, run_pipeline
from .running import Pipeline

__all__ = ["Pipeline", "open_pipeline", "run_pipeline"]
