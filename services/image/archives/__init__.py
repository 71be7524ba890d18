"""Image archives: saved, loaded, imported."""
