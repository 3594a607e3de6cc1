"""The frozen prefix on an accelerator: compiled once, kept under a key of all that it depends on, opened from there."""
