"""Numbers with nouns, for messages and logs."""


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: "1 step", "2 steps"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
