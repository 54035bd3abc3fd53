"""Doors to other software: the calls that people already make, on this engine. Nothing in the package imports them."""
