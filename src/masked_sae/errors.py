"""What a user did wrong, said in one line."""


class InputError(ValueError):
    """A value that cannot be used: names the key or place, the value, and what would be valid."""

    def __init__(self, key: str, value: object, valid: str) -> None:
        super().__init__(f"{key}={value}: expected {valid}")
        self.key = key
        self.value = value
        self.valid = valid

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, object, str]]:
        return InputError, (self.key, self.value, self.valid)


class NonFiniteError(RuntimeError):
    """A NaN or an infinity where numbers were expected: in activations, or in the loss."""
