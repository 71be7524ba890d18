"""What several parts need of the kernel."""
