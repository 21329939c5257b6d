"""What `benches/rivals.py` is made of: environments, engines, works and the tables of their figures.

The driver needs Python alone. What needs an engine's packages runs in a process of its own (`workers/`), under the Python
of that engine's environment: it gets a job as JSON on its command line, and its last line is JSON with what it measured.
"""
