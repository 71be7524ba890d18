"""What the image service keeps on disk: content by digest, and unpacked layers."""
