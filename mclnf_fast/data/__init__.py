"""Posed images as scenes of blocks: readers, and a procedural city to read where nothing is downloaded."""

from mclnf_fast.data.city import District, make_district
from mclnf_fast.data.city_render import CityRenderer
from mclnf_fast.data.city_views import EXPAND, block_views, city_views, expanded, views_inside
from mclnf_fast.data.city_write import CityPaths, CityPlan, city_cache_dir, write_city
from mclnf_fast.data.load import load_scene
from mclnf_fast.data.scene import Block, ImageSet, Scene

__all__ = [
    "EXPAND",
    "Block",
    "CityPaths",
    "CityPlan",
    "CityRenderer",
    "District",
    "ImageSet",
    "Scene",
    "block_views",
    "city_cache_dir",
    "city_views",
    "expanded",
    "load_scene",
    "make_district",
    "views_inside",
    "write_city",
]
