"""What a result becomes on disk: one file for each output format of a run."""
