"""The version of fieldtune, which every part of it may name."""

__version__ = "0.1.0"
