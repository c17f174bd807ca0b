from . import manydepth, monodepth2, patching, recipes, runner

__all__ = ["manydepth", "monodepth2", "patching", "recipes", "runner"]
