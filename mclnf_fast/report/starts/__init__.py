"""Reports of meta-learned initializations."""
