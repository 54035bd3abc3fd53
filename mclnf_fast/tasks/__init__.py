"""Kinds of tasks, each written against `learn.task`: coordinates of signals, rays of posed images."""

from mclnf_fast.tasks.coords import CoordTask, pixel_places, whole_loss
from mclnf_fast.tasks.rays import PosedImages, RayTask, posed_loss

__all__ = ["CoordTask", "PosedImages", "RayTask", "pixel_places", "posed_loss", "whole_loss"]
