"""How good reconstructions are: measures, yardsticks, tables and pictures.

measures      Chamfer distance, F-score, normal consistency, IoU
yardsticks    the sampling floor, the nearest training shape
folder        `evaluate`: every shape in a folder of reconstructions
tables        statistics, a table, JSON and CSV files
gallery       truth beside reconstruction; adaptations step by step
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
