"""Retune's pipeline: one module per DVC stage, `stages.lib` for what they share, `stages.params` for their knobs."""
