"""Losses that are more than torch's own operators: computed in chunks, so that what is largest never exists at once."""
