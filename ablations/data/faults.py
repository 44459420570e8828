"""The error that refuses a data set."""


class DataError(ValueError):
    """A data set that cannot be used; the message names the file, the field and the remedy."""
