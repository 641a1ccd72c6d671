"""The user's function: its kind, how it is made ready, what becomes of its errors."""
