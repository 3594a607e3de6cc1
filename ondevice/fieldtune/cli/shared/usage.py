"""Wrong usage that shows only when a command runs: the command ends with exit code 2."""


class UsageError(Exception):
    """Flags that do not go together, or not with the bundle."""
