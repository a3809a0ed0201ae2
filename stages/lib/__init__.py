"""What stages share: one purpose a file, named for it. Nothing here imports a stage."""
