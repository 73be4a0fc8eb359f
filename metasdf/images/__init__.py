"""2D: signed distances of digits and colours of photographs.

sources       digits and photographs from files, a download or other packages
download      downloads that give up at once where there is no internet
tasks         tasks of (context, query) from images
evaluation    fitting and measuring test images; a table
pictures      fields as pictures
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
