"""The real channel, driven by a small event loop over what was recorded."""
