"""Whole systems: a page each, composed of the floors below."""
