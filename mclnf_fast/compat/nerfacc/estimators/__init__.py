"""Estimators of where along a ray something is seen."""
