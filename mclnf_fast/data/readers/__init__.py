"""Readers of data on disk, one file per format or layout."""
