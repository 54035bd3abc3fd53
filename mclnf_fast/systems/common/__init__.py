"""Options, run folders and results: shared by all systems."""
