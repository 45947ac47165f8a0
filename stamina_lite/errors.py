"""The one exception that is a user's mistake, in a module that loads nothing."""


class UserError(ValueError):
    """A mistake of the user's. Its one line says what is wrong and what to do."""
