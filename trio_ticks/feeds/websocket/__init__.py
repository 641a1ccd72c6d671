"""The feed that reads a venue's WebSocket."""
