"""Bring a raw corpus to where a step runs, exactly as DVC knows it. The only room that imports dvc."""
