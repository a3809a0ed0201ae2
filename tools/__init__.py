"""Tools for the people who work on Retune; no stage needs them."""
