"""`mclnf-fast run city`."""
