"""Fit a bank to signals: tensors, an iterator, or a folder of pictures, sounds or clips."""
