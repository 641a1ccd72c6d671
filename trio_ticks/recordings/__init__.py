"""Recordings of market data: bytes and times."""
