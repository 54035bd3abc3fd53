"""Samplers and the pools that they draw from."""
