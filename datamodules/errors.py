"""What a data module tells its user."""


class DataError(Exception):
    """Data that cannot be used: one sentence that says what was wrong, where it stands, and what to do."""
