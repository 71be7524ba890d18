"""Subjects, requests and replies of every message, declared once and used by both ends."""
