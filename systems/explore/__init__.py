"""A local page in the browser that asks trained systems: its server, the processes that answer, and its panels."""
