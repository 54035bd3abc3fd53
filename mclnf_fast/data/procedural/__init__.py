"""Scenes and signals that need no file: procedural cities, cars, faces, places, sound, video and phantoms."""
