"""Between a listening socket and an ASGI application: connections, their limits, and request bodies."""
