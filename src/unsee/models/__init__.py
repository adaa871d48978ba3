"""Diffusers pipelines behind one small interface: encode, target, predict, selectable weights."""
