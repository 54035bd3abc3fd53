"""Reports of continual learning protocols."""
