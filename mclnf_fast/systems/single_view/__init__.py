"""`mclnf-fast run single-view`."""
