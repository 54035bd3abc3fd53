"""Lenses that bend rays: their formulas, the inverse that leads from a pixel to its ray, masks of pixels without it."""
