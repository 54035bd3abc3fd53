"""A procedural place, photographed under many lights."""
