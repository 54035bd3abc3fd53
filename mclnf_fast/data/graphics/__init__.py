"""Triangles, ray casting and noise, with which procedural scenes and meshes are drawn."""
