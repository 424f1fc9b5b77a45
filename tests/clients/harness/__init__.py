"""What the client tests stand on: processes, a registry with images, a counting proxy, the mirror, the clients.

Python 3.11 and its standard library only. Everything started here is a child of the test run, is stopped by its pid,
listens on loopback, and keeps its state in one temporary folder that is removed at the end.
"""
