"""Generators of scenes and signals that need no file: cities, cars, faces, places, sound, video and phantoms."""
