"""How files are read. The code is the dataset's; a pushed model takes a copy of it along under this name
(`SoftLabelModel._add_code`), as it has to run without this package."""

from affectnet_plus.releases.files import MOST_IMAGE_BYTES, RASTER_FORMATS, read_regular_file, shortened

__all__ = ["MOST_IMAGE_BYTES", "RASTER_FORMATS", "read_regular_file", "shortened"]
