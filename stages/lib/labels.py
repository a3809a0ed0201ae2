"""Labels of tokens: the token itself where it is trained."""

IGNORED = -100  # of a token that is not trained: torch's cross entropy skips it
