"""Volumes and their drivers."""
