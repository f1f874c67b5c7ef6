"""What every error has in common whose message is meant for the user. Imports nothing: a device's runtime needs it."""


class KnownError(Exception):
    """An error whose message is the one line that the user reads."""


class UsageError(KnownError):
    """The user's input cannot work; the message is the one line that they read (exit code 2)."""
