"""`mclnf-fast run image`, `run audio` and `run video`."""
