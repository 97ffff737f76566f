"""Errors that the user can mend."""


class InputError(ValueError):
    """Something for the user to mend that shows only while the work is going on, like what a reward returns.

    Commands show it as one message. Other errors after the first batch are shown with their traceback.
    """
