"""Decoders of single files: pictures, frames of video, sound, and the pictures inside glTF."""
