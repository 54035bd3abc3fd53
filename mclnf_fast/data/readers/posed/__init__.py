"""What posed pictures of a scene share, whatever their layout: its frames, and how it is cut into blocks."""
