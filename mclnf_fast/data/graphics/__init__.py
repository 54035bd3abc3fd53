"""Triangles, ray casting and noise: what the procedural scenes and the mesh readers draw with."""
