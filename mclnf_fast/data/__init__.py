"""Readers of posed images, objects, pictures, video and sound, and generators of each that need no download."""

import sys

from mclnf_fast.data._old_paths import keep_old_paths
from mclnf_fast.data.objects import ObjectSets, ObjectViews, sphere_cameras, turntable
from mclnf_fast.data.objects_write import write_objects
from mclnf_fast.data.photos import PhotoSets
from mclnf_fast.data.procedural.audio import procedural_audio
from mclnf_fast.data.procedural.cars.cars import procedural_cars, render_car
from mclnf_fast.data.procedural.city.district import District, make_district
from mclnf_fast.data.procedural.city.render import CityRenderer
from mclnf_fast.data.procedural.city.views import EXPAND, block_views, city_views, expanded, views_inside
from mclnf_fast.data.procedural.city.write import CityPaths, CityPlan, city_cache_dir, write_city
from mclnf_fast.data.procedural.faces.faces import procedural_faces
from mclnf_fast.data.procedural.place.photos import procedural_photos
from mclnf_fast.data.procedural.video import procedural_video
from mclnf_fast.data.public_sets import Source, SourceFile, download, sources
from mclnf_fast.data.readers.audio import load_audio
from mclnf_fast.data.readers.images import load_images
from mclnf_fast.data.readers.objects import load_objects
from mclnf_fast.data.readers.options import (
    AudioReadOptions,
    ImageReadOptions,
    ObjectReadOptions,
    PhotoReadOptions,
    SceneReadOptions,
    VideoReadOptions,
)
from mclnf_fast.data.readers.photos import load_photos
from mclnf_fast.data.readers.registry import Reader, readers, register_reader
from mclnf_fast.data.readers.scenes import load_scene
from mclnf_fast.data.readers.videos import load_videos
from mclnf_fast.data.readers.whole import FileReadOptions, SignalFiles
from mclnf_fast.data.scene import Block, ImageSet, Scene
from mclnf_fast.data.signals import SignalKind, Signals, SignalSets

__all__ = [
    "EXPAND",
    "AudioReadOptions",
    "Block",
    "CityPaths",
    "CityPlan",
    "CityRenderer",
    "District",
    "FileReadOptions",
    "ImageReadOptions",
    "ImageSet",
    "ObjectReadOptions",
    "ObjectSets",
    "ObjectViews",
    "PhotoReadOptions",
    "PhotoSets",
    "Reader",
    "Scene",
    "SceneReadOptions",
    "SignalFiles",
    "SignalKind",
    "SignalSets",
    "Signals",
    "Source",
    "SourceFile",
    "VideoReadOptions",
    "block_views",
    "city_cache_dir",
    "city_views",
    "download",
    "expanded",
    "load_audio",
    "load_images",
    "load_objects",
    "load_photos",
    "load_scene",
    "load_videos",
    "make_district",
    "procedural_audio",
    "procedural_cars",
    "procedural_faces",
    "procedural_photos",
    "procedural_video",
    "readers",
    "register_reader",
    "render_car",
    "sources",
    "sphere_cameras",
    "turntable",
    "views_inside",
    "write_city",
    "write_objects",
]

keep_old_paths(sys.modules[__name__])
