"""Meshes -> the files that DeepSDF and MetaSDF train on.

discover      which meshes a folder or a split file names
preprocessor  meshes -> samples in a data folder, in parallel
depth_camera  virtual depth scans
splits        training and test splits
dataset       a folder of meshes -> samples and splits
shapes        procedural tables and chairs, of `furniture`, made of `pieces`
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
