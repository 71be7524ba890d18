"""The layers that containers of this node stand on, here or fetched."""
