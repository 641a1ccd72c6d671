"""The terminal view: the recent history of a pipeline, and its drawing with rich."""
