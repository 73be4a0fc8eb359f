"""A trained model and a shape -> the shape's signed distance function and mesh.

inputs        meshes, points and SDF samples from files or memory
contexts      from an input to the context that a model adapts to
fields        fitted fields as functions of points, and their meshes
judging       how good a fit is, by points held out of the context
refining      Adam on an adapted field
adaptation    a context -> the best field in the steps and seconds given, and its mesh
fitting       fitting the shapes of a data folder
one_shape     `reconstruct`: one shape from memory or a file
single_file   one file, for the command line
scan_folder   all files in a folder, for the command line
split         a whole test split, for the command line
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
