"""Where files to copy come from: build contexts, images, downloads, repositories and texts; all read as trees."""
