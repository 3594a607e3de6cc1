"""Graph edits, one per file; each says at its top what it changes and what it leaves alone."""
