"""The backend `joined`."""
