"""The way from a listening socket to an ASGI application: connections, their limits, and bodies."""
