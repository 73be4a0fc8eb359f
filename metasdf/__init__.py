"""MetaSDF: meta-learned signed distance functions.

A few gradient steps turn a meta-learned initialisation into the signed distance function of a new
shape. Everything named here is public; nothing is imported before it is used.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return __all__
