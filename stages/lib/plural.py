"""Numbers of things in sentences."""


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,204 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def agree(number: int, one: str, many: str) -> str:
    """The verb that goes with so many: `was` or `were`."""
    return one if number == 1 else many
