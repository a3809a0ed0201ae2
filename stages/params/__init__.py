"""The typed sections of params.yaml, one file a stage, so that a new knob of one stage reruns no other."""
