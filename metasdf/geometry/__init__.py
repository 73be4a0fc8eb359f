"""Triangle meshes and signed distances: all that needs neither networks nor data folders.

mesh, mesh_files, normalisation   triangle meshes: defects, files, DeepSDF's normalised frame
solids, bodies                    which points are inside a mesh, and whether it has an inside
sdf, sampling, body_sampling      signed distances to a mesh, and DeepSDF's sampling recipe
grid, sparse_grid                 signed distance field -> mesh, by marching cubes; sparse_grid with
                                  evaluated_points, change_bounds and block_signs
point_normals                     outward normals of points that come without
rays, rendering                   ray casting and pictures
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
