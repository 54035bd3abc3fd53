"""`mclnf-fast run photos`."""
