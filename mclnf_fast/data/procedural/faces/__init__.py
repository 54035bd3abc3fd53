"""Procedural portraits."""
