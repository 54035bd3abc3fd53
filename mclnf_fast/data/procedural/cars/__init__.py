"""Procedural cars: plan, body, cabin and parts."""
