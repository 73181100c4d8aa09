"""The one error that a user causes and can mend."""


class InputError(ValueError):
    """Bad input from the user: one sentence with the field, its value and the mend.

    The command line prints it and exits with code 2; in Python it is a `ValueError`.

    Args:
        field (`str`): the argument at fault, as the user writes it.
        value: what was given.
        mend (`str`): what is wrong and what to do about it.
    """

    def __init__(self, field: str, value: object, mend: str):
        self.field, self.value, self.mend = field, value, mend
        super().__init__(f"{field}={value!r}: {mend}")

    def __reduce__(self) -> tuple:
        # Processes of `datasets.map` hand errors over as pickles, and wait for ever where one cannot be read.
        return type(self), (self.field, self.value, self.mend)
