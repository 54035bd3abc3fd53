"""Procedural city districts: plan, parts, views, rendering, and the folder that is written."""
