"""Handlers in other processes."""
