"""The log itself: records in files, and the hashes that prove them."""
