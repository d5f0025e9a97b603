"""Shared helpers: argument checks, type aliases, aligned tables and progress callbacks."""
