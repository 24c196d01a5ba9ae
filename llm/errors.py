"""What the command line tells its user."""


class UserError(Exception):
    """A request that cannot be met: one sentence that says what was wrong, where it stands, and what to do."""
