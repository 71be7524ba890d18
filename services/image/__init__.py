"""Images: content store, registry client and server, builder."""
