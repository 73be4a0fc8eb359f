"""DeepSDF's files on disk -> tasks of (context, query).

names            shapes and their files in a data folder; split files
npz, formats     reading and writing these files
samples          one shape's data, and random draws from it
tasks            tasks and batches of a split
pixels           pixel coordinates of images
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
