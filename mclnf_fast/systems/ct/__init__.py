"""`mclnf-fast run ct`."""
