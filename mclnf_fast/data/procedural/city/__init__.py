"""Procedural city districts: plan, parts, views, rendering and the tree that is written."""
