"""A procedural place under many lights."""
