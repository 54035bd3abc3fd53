"""`mclnf-fast run image-start`."""
