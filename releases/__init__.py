"""How the files of every release are read, checked and exported. The dataset made of them is `affectnet_plus`; what a
release's own module has is said in `find.py`."""

__version__ = "0.1.0"  # of the whole project: setup.cfg reads it here
