"""What all systems share: the run, its folder and its options."""
