"""One module a chapter, one function a figure; a registry and a theme hold them together."""
