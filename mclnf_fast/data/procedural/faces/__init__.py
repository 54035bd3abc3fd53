"""Procedural portraits: who sits, and how each part of the picture is drawn."""
