"""The activation cache: what the frozen prefix gives for a sample is computed once and kept, in memory and on disk."""
