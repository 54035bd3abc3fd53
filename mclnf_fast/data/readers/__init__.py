"""Readers of scenes, objects, photos, images, video and sound; `registry` lists them by the layout they detect."""
