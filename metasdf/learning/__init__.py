"""From a curriculum to a trained model.

curriculum    every key, its default and what it may be; curriculum files
extensions    networks, losses and methods of the user's own
models        from a curriculum to an untrained model
gradients     meta-gradients: precision, compilation
loop          the outer loop
training      the outer loop with checkpoints, logs and progress
checkpoints   saving and loading what training goes on from
model_files   trained models, and those that come with the package
device        CPU, CUDA, MPS
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
