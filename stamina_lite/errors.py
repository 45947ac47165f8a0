"""The exception and the warning that are for users, in a module that loads nothing."""


class UserError(ValueError):
    """A mistake of the user's. Its one line says what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [str(self)]


class UserNotice(UserWarning):
    """What a user should know, such as files that are not used, in one line."""


def first_line(error: BaseException) -> str:
    """What an error says first; advice to programmers follows later."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
