"""A run over many files: everything to disk as it comes, safe to kill and to resume."""
