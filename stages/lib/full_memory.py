"""Memory that runs out, in a sentence for who can lower what is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from stages.lib.errors import UserError


@contextmanager
def explained(batch_size: int) -> Iterator[None]:
    """Say what to do where memory runs out, on a GPU or a CPU.

    Args:
        batch_size: evaluate.batch_size, which is too large; 1 where no smaller one would help.

    Raises:
        UserError: instead of the error.
    """
    try:
        yield
    except Exception as error:
        from stages.lib.memory import is_out  # needs torch

        if not is_out(error):
            raise
        if batch_size > 1:
            raise UserError(
                f"the device has too little memory for {batch_size} rows at once. Lower evaluate.batch_size in "
                "params.yaml; answers stay the same but for rounding."
            ) from None
        raise UserError(
            "the device has too little memory for this model. Free some, take a device with more, or a smaller base."
        ) from None
