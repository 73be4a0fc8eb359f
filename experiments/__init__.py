"""The paper's comparisons, run from the project's folder as `python -m experiments.NAME`.

compare_3d     MetaSDF and its baselines on shapes, for the same training time
reproduce_2d   MetaSDF and its baselines on MNIST's digits, for the same training time
photographs    SIRENs of photographs in three gradient steps
ablations      inner steps, step sizes, order of the meta-gradient, networks, seeds
princeton      prepares real shapes for compare_3d

methods, sweep, tables and command are what they share. README.md has commands, times and results.
"""
