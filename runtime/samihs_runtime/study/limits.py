"""The reader's limits, and the reason for each number.

They guard against damaged and malicious input; each is several times what a real head CT needs. An
error message about a limit names it.
"""

MAX_FILES = 20_000
"""Files examined below one folder or in one zip. A perfusion study has about 5,000."""
MAX_FILE_BYTES = 2 * 2**30
"""One file. An uncompressed Enhanced CT with 2,000 slices of 512 x 512 has 1 GiB."""
MAX_ZIP_MEMBER_BYTES = 2**30
"""One DICOM file in a zip, expanded: it is read into memory."""
MAX_ZIP_BYTES = 8 * 2**30
"""All DICOM files in a zip together, expanded: eight studies of 2,000 slices."""
MAX_DEFLATED_BYTES = 2**28
"""A deflated data set (PS3.5 A.5), inflated: 128 slices of 1024 x 1024 in 16 bits."""
MAX_MATRIX = 4096
"""Rows or columns. CT is reconstructed with 256 to 2048."""
MAX_PIXELS = 2**29
"""Pixels of one series: 2,048 slices of 512 x 512; 1 GiB as int16."""
MAX_NESTING = 32
"""Levels of nested folders."""
