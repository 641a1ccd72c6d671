"""The live page for a browser: its values, their history, and the server."""
