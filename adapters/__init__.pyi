from . import codebases, generic, manydepth, monodepth2, patching, recipes, runner

__all__ = ["codebases", "generic", "manydepth", "monodepth2", "patching", "recipes", "runner"]
