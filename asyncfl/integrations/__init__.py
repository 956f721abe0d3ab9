"""Rules of this package in other frameworks. Each module needs its framework, which nothing else here imports."""
